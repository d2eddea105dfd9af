"""Pages of the KV cache: who owns which, and which hold a known prefix."""
