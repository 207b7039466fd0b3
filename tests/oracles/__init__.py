"""Independent float64 NumPy loops that the tests compare with. Imported by tests only; no jax."""
