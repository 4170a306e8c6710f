"""Cameras and ground-truth matches: pure tensor functions, no model, no files."""
