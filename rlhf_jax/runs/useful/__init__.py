"""Useful operations of a run: what its programs must compute, counted from their shapes."""
