"""What a compiled program says about itself, without the machine that it is for."""

from rlhf_jax.runs.plan.collectives import Collective, Traffic, by_kind, traffic
from rlhf_jax.runs.plan.hlo import Program, Shape, read

__all__ = ["Collective", "Program", "Shape", "Traffic", "by_kind", "read", "traffic"]
