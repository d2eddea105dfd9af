"""Attention over pages: a reference and a faster twin."""
