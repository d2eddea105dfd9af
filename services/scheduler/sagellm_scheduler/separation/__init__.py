"""Whether a request's prompt is prefilled on another engine than its answer is decoded on."""
