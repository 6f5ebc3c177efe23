"""What do the bytes look like? Arrays to wire formats and back; pure."""
