"""GASP (arXiv 2605.30231), a re-implementation: the official code is unreleased."""
