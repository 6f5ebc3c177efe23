"""What do we ask of storage, and who answers? The only place where vendors are named."""
