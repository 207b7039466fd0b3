"""Whole runs in one program, for tiny models: what notebooks and tests train several seeds with.
See `loop`."""

from rlhf_jax.loops.fused.loop import (
    FusedConfig,
    History,
    make_fill,
    make_fused_fit,
    make_fused_loop,
    policy_of,
)
from rlhf_jax.loops.fused.rollouts import (
    GenerationShape,
    PromptSet,
    make_collect,
    make_evaluate,
    sample,
)
from rlhf_jax.loops.fused.task import Answers, encode_answers, exact_answer, make_prompt_set
from rlhf_jax.loops.fused.traced import with_traced

__all__ = [
    "Answers",
    "FusedConfig",
    "GenerationShape",
    "History",
    "PromptSet",
    "encode_answers",
    "exact_answer",
    "make_collect",
    "make_evaluate",
    "make_fill",
    "make_fused_fit",
    "make_fused_loop",
    "make_prompt_set",
    "policy_of",
    "sample",
    "with_traced",
]
