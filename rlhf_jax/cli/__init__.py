"""The command line `rlhf-jax`: argument parsing and wiring only."""
