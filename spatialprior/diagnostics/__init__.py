"""Measurements on the model's own attention: layer-wise PCK, confidence, temporal robustness."""
