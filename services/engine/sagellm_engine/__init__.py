"""The inference engine: paged attention, continuous batching, our own kernels."""

from sagellm_engine.processors import PROCESSORS

__all__ = ["PROCESSORS"]
