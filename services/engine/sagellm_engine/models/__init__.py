"""From a model folder to a module: the table of families, the configuration, the decoder."""
