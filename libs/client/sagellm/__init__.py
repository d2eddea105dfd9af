"""sageLLM: what users import, and the command line."""
