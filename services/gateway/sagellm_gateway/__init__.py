"""The gateway: OpenAI-compatible HTTP and NATS in, token streams out."""
