"""Whole runs in one program, for tiny models and several seeds at once. See `loop`."""

from rlhf_jax.fused.loop import FusedConfig, History, Run, make_fused_fit, make_fused_loop
from rlhf_jax.fused.rollouts import (
    GenerationShape,
    PromptSet,
    make_collect,
    make_evaluate,
    sample,
)
from rlhf_jax.fused.task import Answers, encode_answers, exact_answer, make_prompt_set
from rlhf_jax.fused.traced import with_traced

__all__ = [
    "Answers",
    "FusedConfig",
    "GenerationShape",
    "History",
    "PromptSet",
    "Run",
    "encode_answers",
    "exact_answer",
    "make_collect",
    "make_evaluate",
    "make_fused_fit",
    "make_fused_loop",
    "make_prompt_set",
    "sample",
    "with_traced",
]
