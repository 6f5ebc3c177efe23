"""Which words do we use? Errors, geometry, pyramids, threads; standard library and numpy only."""
