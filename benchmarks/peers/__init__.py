"""Other engines on the same workloads. Each module runs alone, in an environment of its own that lacks sageLLM."""
