"""The control plane in virtual time: the real scheduler and gateway cores, engines by a time model, a faulty bus."""
