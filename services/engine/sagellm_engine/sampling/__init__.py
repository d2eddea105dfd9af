"""From logits to tokens, with noise that is a function of seed and position alone."""
