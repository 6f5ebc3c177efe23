"""Timed work against any server that speaks DVID's HTTP API, so that two of them can be compared."""
