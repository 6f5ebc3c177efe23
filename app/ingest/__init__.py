"""Bringing volumes in: from arrays in files and buckets to instances, over HTTP or straight into the store."""
