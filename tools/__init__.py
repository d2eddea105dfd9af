"""Programs that developers run: set-up, documents, checks."""
