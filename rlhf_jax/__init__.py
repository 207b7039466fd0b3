"""Align language models in JAX."""
