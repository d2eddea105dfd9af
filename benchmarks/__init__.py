"""Benchmarks: one entry point, `python -m benchmarks`; results with the machine's description in `results/`."""
