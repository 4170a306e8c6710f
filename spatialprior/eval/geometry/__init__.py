"""Scores of predicted depth, cameras and points on any posed RGB-D clip."""
