"""Routers, one a file: each chooses among the engines that can take a request now."""
