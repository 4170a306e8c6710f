"""VEGA-3D: features of a frozen generative model, fused into the visual tokens (arXiv 2603.19235)."""
