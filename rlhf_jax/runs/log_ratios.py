"""How far held-out samples show the policy to be from the model of `evaluation.reference`."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import Config, MeasureConfig
from rlhf_jax.data import FastTokenizer
from rlhf_jax.data.batching import scored_columns
from rlhf_jax.loops.held_out import LogRatios
from rlhf_jax.models import load_pretrained
from rlhf_jax.programs import jitted, named, times
from rlhf_jax.runs.trees import execution
from rlhf_jax.sharding import in_parts
from rlhf_jax.types import Model, Params, Rollout


def load_log_ratios(
    config: Config | MeasureConfig,
    tokenizer: FastTokenizer,
    *,
    mesh: Mesh,
    rows_at_once: int,
    max_scored: int,
) -> LogRatios | None:
    """`make_log_ratios` of `evaluation.reference`; None where there is none.

    Args:
      config: what is measured.
      tokenizer: of the policy.
      mesh: of the policy.
      rows_at_once: completions in a forward pass.
      max_scored: most tokens of a completion.

    Raises:
      ValueError: the model embeds fewer tokens than the tokenizer has.
    """
    path = config.evaluation.reference
    if path is None:
        return None
    model, params = load_pretrained(
        path,
        dtype=config.model.dtype,
        mesh=mesh,
        replicate=config.mesh.replicate,
        **execution(config),
    )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"evaluation.reference={path} embeds {model.config.vocab_size} tokens and the "
            f"policy's tokenizer has {tokenizer.vocab_size}: they must share a tokenizer"
        )
    temperature = config.evaluation.temperature
    return make_log_ratios(
        model,
        params,
        mesh=mesh,
        rows_at_once=rows_at_once,
        max_scored=max_scored,
        temperature=1.0 if temperature is None else temperature,
    )


def make_log_ratios(
    model: Model,
    params: Params,
    *,
    mesh: Mesh,
    rows_at_once: int | None,
    max_scored: int,
    temperature: float,
) -> LogRatios:
    """log p(completion | prompt) of the policy that sampled less that of a fixed model.

    Its mean over samples of the policy is an unbiased estimate of KL(policy | fixed model) of whole
    completions (k1 of Schulman 2020, "Approximating KL Divergence"), at the temperature of the
    samples.

    Args:
      model: functions of the fixed model.
      params: its parameters, placed on the mesh.
      mesh: the device mesh.
      rows_at_once: completions in a forward pass at most; None: all.
      max_scored: most tokens of a completion.
      temperature: that the completions were sampled with.

    Returns:
      Rollout of B completions -> NumPy [B], nats.
    """
    score = named(
        "log-probabilities of evaluation.reference",
        jitted(_make_score(model, temperature)),
        lambda params, tokens, *rest: f"{times(*tokens.shape)} tokens",
    )
    rows = in_parts(functools.partial(score, params), mesh=mesh, rows_at_once=rows_at_once)

    def log_ratios(rollout: Rollout) -> np.ndarray:
        scored = scored_columns(np.asarray(rollout.completion_mask), max_scored)
        theirs = rows(rollout.tokens, rollout.mask, rollout.completion_mask, scored)
        # `logps` is 0 off the completion.
        return np.asarray(rollout.logps, np.float64).sum(axis=1) - theirs

    return log_ratios


def _make_score(model: Model, temperature: float) -> Callable[..., Float[Array, " B"]]:
    def score(
        params: Params,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        completion_mask: Bool[Array, "B T"],
        scored: Int[Array, "B S"],
    ) -> Float[Array, " B"]:
        logps = model.token_logps(
            params, tokens, mask, scored=scored, temperature=temperature, entropy=False
        )[0]
        return jnp.where(completion_mask, logps, 0.0).astype(jnp.float32).sum(axis=1)

    return score
