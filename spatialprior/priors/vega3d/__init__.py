"""VEGA-3D (arXiv 2603.19235), a re-implementation: features of a generative model join the visual tokens."""
