"""G²VLM-style geometry expert, re-implementation of arXiv 2511.21688."""
