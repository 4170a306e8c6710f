"""Exports under lmms-eval: as a model of its own, with stored replies, and to see what a training forgot.

Nothing else in the package imports this one, and nothing here imports lmms-eval before it is used.
"""
