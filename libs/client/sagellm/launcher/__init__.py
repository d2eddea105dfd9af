"""The launcher: a whole stack of services as child processes, supervised, for `sagellm up`, `serve` and tests."""
