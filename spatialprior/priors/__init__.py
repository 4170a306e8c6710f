"""Spatial priors. None of them knows a backbone, a dataset or another prior."""
