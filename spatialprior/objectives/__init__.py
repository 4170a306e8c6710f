"""Losses as sum and count, free of any model or dataset."""
