"""The public API on NATS: a request on `generate`, the stream in the caller's inbox."""
