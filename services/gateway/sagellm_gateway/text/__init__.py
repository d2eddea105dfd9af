"""Text in the gateway: tokenizers, chat templates, incremental detokenization, stop strings, tool calls."""
