"""DVID Cloud: a stateless, versioned data service for connectomics that speaks DVID's HTTP API."""

__version__ = "0.1.0"
