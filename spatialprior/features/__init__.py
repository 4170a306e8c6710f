"""Features of frozen models that see the same frames as the backbone: encoders, alignment, cache."""
