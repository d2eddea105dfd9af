"""The inference engine: paged attention, continuous batching, our own kernels."""
