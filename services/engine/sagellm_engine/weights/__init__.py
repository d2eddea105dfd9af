"""Reading checkpoints: safetensors only, mapped into memory, checked before use."""
