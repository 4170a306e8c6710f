"""Scoring of exported models on held-out questions."""
