"""Causal self-attention over right-padded rows: grouped heads, windows, soft-caps, documents.

`attention` chooses one of several implementations: `plain.plain` is the definition that the others
are tested against, `blocked.blocked` the form for CPUs, `splash.splash` the kernels for TPUs,
`cudnn.cudnn` those for NVIDIA GPUs.
"""

from rlhf_jax.models.attention.choice import IMPLEMENTATIONS, attention

__all__ = ["IMPLEMENTATIONS", "attention"]
