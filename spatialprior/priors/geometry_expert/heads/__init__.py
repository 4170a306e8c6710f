"""Geometry heads of a G²VLM-style expert: local points, camera, global points, confidence."""
