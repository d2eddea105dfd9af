"""The model that ships with sageLLM: its corpus, tokenizer, training and evaluation."""
