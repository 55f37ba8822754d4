"""Scaling laws: how loss falls with parameters, data, and compute, how sure that is, and what speaks against it."""
