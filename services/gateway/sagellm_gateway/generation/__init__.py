"""Generations: what a client gets for one accepted request, and how text is made of its tokens."""
