"""What a run will cost, before any weight is downloaded: the real step on tensors that have no content."""
