"""Algorithms, models, samplers and environments of one's own: what tests train."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.algorithms.forward import ref_logps, token_logps
from rlhf_jax.ops import loss_weights, masked, masked_mean, weighted_sum
from rlhf_jax.rollout import GenerationStats, Sampled
from rlhf_jax.types import Algorithm, Model, Models, Rollout, Sampling


@dataclass(frozen=True)
class ReinforceConfig:
    """Options of REINFORCE."""

    data: ClassVar[str] = "prompts"
    summary: ClassVar[str] = "REINFORCE with a moving-average baseline"
    models: ClassVar[Models] = Models()

    group_size: int = 4
    decay: float = 0.9

    @property
    def sampling(self) -> Sampling:
        return Sampling(group_size=self.group_size)


def make_reinforce(config: ReinforceConfig, model: Model) -> Algorithm:
    def loss(trees, batch, key):
        logps, _ = token_logps(model, trees, batch)
        total = -weighted_sum(logps * lax.stop_gradient(batch.advantages), batch.weights)
        return total, {"loss/total": total}

    def prepare(batch, aux):
        graded = ~jnp.isnan(batch.rewards)
        mean = masked_mean(jnp.nan_to_num(batch.rewards), graded)
        advantages = jnp.nan_to_num(batch.rewards - aux["baseline"])[:, None]
        spread = jnp.broadcast_to(advantages, batch.completion_mask.shape)
        batch = batch._replace(advantages=masked(spread, batch.completion_mask))
        baseline = config.decay * aux["baseline"] + (1 - config.decay) * mean
        return batch, {"baseline": baseline}, {"rewards/mean": mean, "baseline": baseline}

    def weigh(batch):
        trained = batch.completion_mask & ~jnp.isnan(batch.rewards)[:, None]
        return batch._replace(weights=loss_weights(trained, "sequence"))

    aux = {"baseline": jnp.zeros(())}
    return Algorithm(loss=loss, prepare=prepare, weigh=weigh, aux=aux, sampling=config.sampling)


@dataclass(frozen=True)
class DistillConfig:
    """Options of on-policy distillation."""

    data: ClassVar[str] = "prompts"
    summary: ClassVar[str] = "reverse KL to a larger frozen model on the policy's own samples"
    models: ClassVar[Models] = Models(reference="always", own_reference=True)

    group_size: int = 2

    @property
    def sampling(self) -> Sampling:
        return Sampling(group_size=self.group_size, rewarded=False)


def make_distill(config: DistillConfig, model: Model) -> Algorithm:
    def loss(trees, batch, key):
        logps, _ = token_logps(model, trees, batch)
        gap = lax.stop_gradient(logps) - batch.ref_logps
        kl = masked(gap, batch.weights != 0)
        # The gradient of E[log p - log q] over the policy's own samples: the score times the gap.
        total = weighted_sum(logps * kl, batch.weights)
        reverse = weighted_sum(kl, batch.weights)
        return total, {"loss/total": total, "kl/ref": reverse}

    def weigh(batch):
        return batch._replace(weights=loss_weights(batch.completion_mask, "token"))

    needs = {"ref_logps": ref_logps(model, 1.0)}
    return Algorithm(loss=loss, weigh=weigh, needs=needs, sampling=config.sampling)


class BigramConfig(NamedTuple):
    """What a loop reads of a model."""

    vocab_size: int
    max_position: int = 1 << 20


def bigram(vocab_size: int) -> Model:
    """A table of logits: the next token depends on the last one alone."""

    def hidden(params, tokens, mask, *, segment_ids=None):
        return params["table"]["kernel"][tokens]

    def log_probs(params, tokens, temperature=1.0):
        return jax.nn.log_softmax(params["table"]["kernel"][tokens] / temperature)

    def logps_of(
        params, tokens, mask, *, segment_ids=None, scored=None, temperature=1.0, entropy=True
    ):
        table = log_probs(params, tokens, temperature)[:, :-1]
        taken = jnp.take_along_axis(table, tokens[:, 1:, None], axis=2)[..., 0]
        spread = -jnp.sum(jnp.exp(table) * table, axis=2) if entropy else None
        pad = ((0, 0), (1, 0))
        return jnp.pad(taken, pad), None if spread is None else jnp.pad(spread, pad)

    return Model(BigramConfig(vocab_size), hidden, hidden, logps_of)


class StubSampler:
    """Two tokens drawn from the table, on the host."""

    width = 24
    max_scored = 2

    def __call__(self, params, prompts, key, *, group_size, sampling=None):
        lengths = np.repeat(prompts.lengths, group_size)
        rows = len(lengths)
        places = np.arange(rows)
        tokens = np.zeros((rows, self.width), np.int32)
        tokens[:, : prompts.tokens.shape[1]] = np.repeat(prompts.tokens, group_size, axis=0)
        logps = np.zeros(tokens.shape, np.float32)
        keys = jnp.broadcast_to(key, (rows,)) if key.ndim else jax.random.split(key, rows)
        for step in range(self.max_scored):
            table = jax.nn.log_softmax(
                params["table"]["kernel"][tokens[places, lengths + step - 1]]
            )
            drawn = jax.vmap(jax.random.categorical)(
                jax.vmap(jax.random.fold_in, (0, None))(keys, step), table
            )
            tokens[places, lengths + step] = drawn
            logps[places, lengths + step] = np.asarray(table)[places, np.asarray(drawn)]
        position = np.arange(self.width)[None, :]
        mask = position < lengths[:, None] + self.max_scored
        chosen = mask & (position >= lengths[:, None])
        arrays: Any = (tokens, mask, chosen, logps, np.zeros(rows, bool))
        count = self.max_scored * rows
        return Sampled(Rollout(*arrays), GenerationStats(count, count, 1.0, 0.0))


class Echo:
    """Answers the first turn, and then no more."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def reply(self, conversations, columns):
        self.asked += conversations
        return [{"role": "user", "content": " more?"} for _ in conversations]
