"""A deterministic program that writes the training corpus, one file for each skill."""
