"""The version of the distribution, without reading package metadata (which costs time at start)."""

__version__ = "0.1.0"
