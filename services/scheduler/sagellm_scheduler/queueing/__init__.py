"""Queue policies, one a file: each says in which order waiting requests go."""
