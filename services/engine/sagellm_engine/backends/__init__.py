"""Where the engine computes: one module per backend, chosen by name, imported only then."""
