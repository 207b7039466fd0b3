"""Measurements, and the PyTorch side of every comparison, each in a process of its own."""
