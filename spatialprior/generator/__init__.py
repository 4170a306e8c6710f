"""The embedded generator: a Wan video model in miniature, trained here on clips of the ray-cast rooms."""
