"""Commands of `dvid-cloud`, one module each; parts of the composition root."""
