"""The nano twins: real Hugging Face classes in a size that trains on a laptop's CPU."""
