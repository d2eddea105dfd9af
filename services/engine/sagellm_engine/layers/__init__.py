"""Linear, norm, rotary: the parts that models are made of."""
