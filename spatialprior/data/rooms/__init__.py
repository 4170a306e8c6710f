"""The embedded world: ray-cast rooms with exact depth, poses, instance masks and questions."""
