"""The model registry: what models exist here, where they come from, where their files are."""
