"""Runs strangers' Python code where it can compute and nothing else (Linux)."""

from rlhf_jax.rewards.sandbox.run import (
    Limits,
    MachineTooSlow,
    isolation,
    run_calls,
    run_program,
    run_programs,
    run_tests,
)

__all__ = [
    "Limits",
    "MachineTooSlow",
    "isolation",
    "run_calls",
    "run_program",
    "run_programs",
    "run_tests",
]
