"""Which engine has which prefix in its cache."""
