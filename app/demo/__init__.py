"""A demonstration: a sample of tissue, a store with two versions of it, and neuroglancer showing them."""
