"""A geometry expert in the manner of G²VLM (arXiv 2511.21688), a re-implementation."""
