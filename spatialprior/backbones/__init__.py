"""Backbones: adapters around unmodified Hugging Face classes."""
