"""Benchmarks that others publish, each a small file and a YAML of its version, data and protocols."""
