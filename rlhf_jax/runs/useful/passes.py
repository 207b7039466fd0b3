"""Which trees a loss or a score reads, and how: found out by tracing it, not by knowing it.

An algorithm is made once more, on a model whose functions compute nothing and write down who was
asked for what. So an algorithm of one's own is counted like the library's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms import make_algorithm
from rlhf_jax.models import ModelConfig
from rlhf_jax.training import union
from rlhf_jax.training.step import make_filled
from rlhf_jax.types import Algorithm, Model, Params, Reading, Trees


class Pass(NamedTuple):
    """One tree reads a batch. What is asked of it several times it can answer in one pass."""

    role: str
    config: ModelConfig
    predicts: bool
    """Trained tokens are predicted: the unembedding is read."""
    is_trained: bool
    """Gradients flow back."""


class _Reads:
    """What was asked of which tree."""

    def __init__(self) -> None:
        self.roles: dict[int, tuple[str, bool]] = {}
        self.found: dict[str, Pass] = {}

    def enter(self, trained: Trees, frozen: Trees) -> Trees:
        """The trees that a loss or a score sees."""
        self.roles = {id(tree): (role, False) for role, tree in frozen.items()}
        self.roles |= {id(tree): (role, True) for role, tree in trained.items()}
        return union(trained, frozen)

    def note(self, params: Params, config: ModelConfig, *, predicts: bool) -> None:
        """A function of the model was called."""
        # A tree that was made inside of the loss is nobody's, and not trained.
        role, is_trained = self.roles.get(id(params), ("another", False))
        before = self.found.get(role)
        predicts |= before is not None and before.predicts
        self.found[role] = Pass(role, config, predicts, is_trained)


def loss_passes(
    section: Any,
    model: Model,
    trained: Trees,
    frozen: Trees,
    batch: Any,
    aux: Params,
) -> tuple[Pass, ...]:
    """What one computation of the loss reads.

    Args:
      section: the algorithm's configuration.
      model: functions of all roles.
      trained, frozen: trees by role.
      batch: as the step gets it.
      aux: the algorithm's own state.
    """
    reads = _Reads()
    algorithm = make_algorithm(section, _noting(model, reads))

    filled = make_filled(algorithm)

    def run(trained: Trees, frozen: Trees, batch: Any, aux: Params) -> Any:
        trees = reads.enter(trained, frozen)
        if algorithm.sampling is None:  # as `make_step` does
            batch = filled(batch, trained, frozen)
        batch, _, _ = algorithm.prepare(batch, aux)
        return algorithm.loss(trees, algorithm.weigh(batch), jax.random.key(0))

    # A row each: who is read does not depend on how rows are packed.
    jax.eval_shape(run, trained, frozen, batch._replace(room=None), aux)
    return tuple(reads.found.values())


def score_passes(
    section: Any,
    model: Model,
    trained: Trees,
    frozen: Trees,
    batch: Any,
    *,
    scores: Callable[[Algorithm], Mapping[str, Any]],
) -> tuple[Pass, ...]:
    """What filling a batch reads; nothing of it is trained.

    Args:
      section, model, trained, frozen, batch: as for `loss_passes`.
      scores: of an algorithm, `needs` or `cached`.
    """
    reads = _Reads()
    algorithm = make_algorithm(section, _noting(model, reads))

    def run(trained: Trees, frozen: Trees, batch: Any) -> Any:
        trees = reads.enter(trained, frozen)
        return {field: score(trees, batch) for field, score in scores(algorithm).items()}

    jax.eval_shape(run, trained, frozen, batch._replace(room=None))
    return tuple(found._replace(is_trained=False) for found in reads.found.values())


def _noting(model: Model, reads: _Reads) -> Model:
    """A model of the same shapes that computes nothing."""
    config = model.config

    def token_logps(params: Params, tokens: Any, mask: Any, **options: Any) -> Any:
        reads.note(params, config, predicts=True)
        zeros = jnp.zeros(tokens.shape)
        found = (zeros, zeros if options.get("entropy", True) else None)
        return (*found, zeros) if options.get("top") else found

    def read(
        params: Params,
        tokens: Any,
        mask: Any,
        *,
        logps: bool = True,
        values: bool = False,
        entropy: bool = True,
        top: bool = False,
        **options: Any,
    ) -> Reading:
        reads.note(params, config, predicts=logps)
        zeros = jnp.zeros(tokens.shape)
        asked = (logps, logps and entropy, logps and top, values)
        return Reading(*(zeros if each else None for each in asked))

    def logits(params: Params, tokens: Any, mask: Any, **documents: Any) -> Any:
        reads.note(params, config, predicts=True)
        return jnp.zeros((*tokens.shape, config.vocab_size))

    def hidden(params: Params, tokens: Any, mask: Any, **documents: Any) -> Any:
        reads.note(params, config, predicts=False)
        return jnp.zeros((*tokens.shape, config.hidden_size))

    def scores(params: Params, tokens: Any, mask: Any, **documents: Any) -> Any:
        reads.note(params, config, predicts=False)
        return jnp.zeros(tokens.shape)

    return model._replace(
        hidden=hidden,
        logits=logits,
        token_logps=token_logps,
        scores=None if model.scores is None else scores,
        read=None if model.read is None else read,
        roles=tuple((role, _noting(own, reads)) for role, own in model.roles),
    )
