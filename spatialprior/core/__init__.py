"""Contracts that every other package speaks: clips, token maps, sites, terms, injectors, backbones."""
