"""Clients: asynchronous and synchronous, over NATS and over HTTP, with the same methods and results."""
