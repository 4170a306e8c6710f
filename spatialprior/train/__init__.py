"""Training: one optimiser step as a sum of loss terms, on one device or many."""
