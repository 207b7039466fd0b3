"""Losses of a preference pair, each a function of its log-ratios: the table behind `dpo_loss`.

    c = log π(y_w|x) - log π_ref(y_w|x),   r = the same of y_l,   h = c - r,   e = label_smoothing

Equations and papers stand in `PAPERS`, names are TRL's.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rlhf_jax.algorithms.named import check_shapes, load_function
from rlhf_jax.ops import masked
from rlhf_jax.ops.checks import check_choice, check_range
from rlhf_jax.ops.precision import Scalar

PAPERS: dict[str, str] = {
    "sigmoid": "-(1 - e) log σ(beta h) - e log σ(-beta h): DPO eq. 7 (arXiv:2305.18290); e > 0 is "
    "cDPO (Mitchell 2023)",
    "hinge": "max(0, 1 - beta h): SLiC-HF (arXiv:2305.10425) with DPO's reward",
    "ipo": "(h' - 1 / (2 beta))^2, h' of ratios per token: IPO eq. 17 (arXiv:2310.12036), beta = "
    "tau",
    "exo_pair": "KL(p || q), p = (σ(beta h), σ(-beta h)), q = (1 - e, e), e > 0: EXO eq. 16 "
    "(arXiv:2402.00856)",
    "nca_pair": "-log σ(beta c) - (log σ(-beta c) + log σ(-beta r)) / 2: NCA (arXiv:2402.05369)",
    "robust": "(-(1 - e) log σ(beta h) + e log σ(-beta h)) / (1 - 2 e): robust DPO "
    "(arXiv:2403.00409)",
    "bco_pair": "-log σ(beta c) - log σ(-beta r): BCO on pairs, without its running mean "
    "(arXiv:2404.04656)",
    "sppo_hard": "(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2: SPPO with hard labels "
    "(arXiv:2405.00675)",
    "aot": "the sigmoid loss of policy margins against reference margins of the same rank: AOT, "
    "paired (arXiv:2406.05882)",
    "aot_unpaired": "the sigmoid loss of chosen ratios against rejected ratios of the same rank: "
    "AOT, unpaired (arXiv:2406.05882)",
    "apo_zero": "1 - σ(beta c) + σ(beta r): APO eq. 7 (arXiv:2408.06266)",
    "apo_down": "σ(beta c) + 1 - σ(beta h): APO eq. 8 (arXiv:2408.06266)",
    "discopop": "(1 - m) (-log σ(l)) + m exp(-l), l = beta h, m = σ(l / tau): DiscoPOP eq. 5 "
    "(arXiv:2406.08414)",
    "sft": "negative log-likelihood of the chosen answers, mean over their tokens",
    "sigmoid_norm": "-log σ(beta h'), h' of ratios per token",
}
LOSS_TYPES = tuple(PAPERS)
PER_TOKEN = ("ipo", "sigmoid_norm")
"""Read log-ratios divided by the length of the completion."""
MATCHED = ("aot", "aot_unpaired")
"""Compare quantiles of the whole batch."""
SMOOTHED = ("sigmoid", "exo_pair", "robust", *MATCHED)
"""Read `label_smoothing`."""


class Pair(NamedTuple):
    """What the losses of pairs read."""

    chosen: Float[Array, " B"]
    """c, nats."""
    rejected: Float[Array, " B"]
    """r, nats."""
    lengths: Float[Array, "B 2"] | None
    """Tokens of the two completions; None: the ratios are per token already."""
    matches: Float[Array, "B 3"]
    """See `match_quantiles`; no gradient."""
    beta: Scalar
    smoothing: float
    tau: float

    @property
    def logit(self) -> Array:
        """beta h"""
        return self.beta * (self.chosen - self.rejected)

    @property
    def per_token(self) -> Array:
        """h'"""
        if self.lengths is None:
            return self.chosen - self.rejected
        return self.chosen / self.lengths[:, 0] - self.rejected / self.lengths[:, 1]


PairLoss: TypeAlias = Callable[[Pair], Array]
"""The loss of each pair, [B]."""
LossName: TypeAlias = str | PairLoss
"""A name of `LOSS_TYPES` or of a user's function; or the function."""


def as_tuple(loss_type: LossName | Sequence[LossName]) -> tuple[LossName, ...]:
    """One loss or several as several."""
    if isinstance(loss_type, str) or callable(loss_type):
        return (loss_type,)
    return tuple(loss_type)


def is_own(name: LossName) -> bool:
    """Whether a loss is a function of the user's, ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``."""
    return not isinstance(name, str) or ":" in name


def find_loss(name: LossName) -> PairLoss:
    """A loss of pairs by its name.

    Args:
      name: one of `LOSS_TYPES` but "sft"; or ``FILE.py:FUNCTION``, a function of a `Pair` that
        returns the loss of each, [B]; or that function.

    Raises:
      ValueError: in one line, why a function of one's own cannot be used.
    """
    if not isinstance(name, str):
        return name
    if not is_own(name):
        return PAIR_LOSSES[name]
    function = load_function("algorithm.loss_type", name)

    def of_ratios(chosen: Array, rejected: Array, lengths: Array, matches: Array) -> Array:
        return function(Pair(chosen, rejected, lengths, matches, 0.1, 0.0, 0.05))

    check_shapes("algorithm.loss_type", name, of_ratios, (), (), (2,), (3,), like=())
    return function


def check_losses(
    loss_type: LossName | Sequence[LossName],
    loss_weights: Sequence[float] | None,
    label_smoothing: float,
) -> None:
    """One-line errors for what cannot be meant."""
    names = as_tuple(loss_type)
    if not names:
        raise ValueError("loss_type=[] is no loss: name one or several")
    for name in names:
        if not is_own(name):
            check_choice("loss_type", name, LOSS_TYPES)
        if names.count(name) > 1:
            raise ValueError(f"loss_type={list(names)}: {name!r} stands there twice")
    if loss_weights is not None:
        for weight in loss_weights:
            check_range("loss_weights", weight, low=0)
        if len(loss_weights) != len(names):
            raise ValueError(
                f"loss_weights={list(loss_weights)} has {len(loss_weights)} numbers for "
                f"{len(names)} losses ({', '.join(map(str, names))}): give one each"
            )
        if not sum(loss_weights) > 0:
            raise ValueError(f"loss_weights={list(loss_weights)} are all 0: nothing is trained")
    check_range("label_smoothing", label_smoothing, low=0, below=0.5)
    reads_it = any(name in SMOOTHED or is_own(name) for name in names)
    if label_smoothing and not reads_it:
        raise ValueError(
            f"label_smoothing={label_smoothing!r} has no meaning for loss_type={loss_type!r}: use "
            f"one of {', '.join(SMOOTHED)}"
        )
    if not label_smoothing and "exo_pair" in names:
        raise ValueError(
            "label_smoothing=0 makes the target of loss_type='exo_pair' certain, and its loss "
            "infinite: set label_smoothing=0.001, the paper's"
        )


def match_quantiles(
    chosen: Float[Array, " B"],
    rejected: Float[Array, " B"],
    ref_chosen: Float[Array, " B"],
    ref_rejected: Float[Array, " B"],
    keep: Bool[Array, " B"],
) -> Float[Array, "B 3"]:
    """What each pair is compared with in the losses that compare distributions (AOT).

    Args:
      chosen: log π(y_w|x), nats, of the whole optimizer step's batch.
      rejected: log π(y_l|x), nats.
      ref_chosen: the same under the reference.
      ref_rejected: the same under the reference.
      keep: False for a filler pair.

    Returns:
      Columns: by how much the reference's margin (chosen - rejected) of the same rank as the
      policy's margin of this pair exceeds the reference's margin of this pair; the rejected
      log-ratio of the rank of the pair's chosen one; the chosen log-ratio of the rank of its
      rejected one. No gradient; 0 on fillers.
    """
    arrays = (chosen, rejected, ref_chosen, ref_rejected)
    up, down, ref_up, ref_down = (lax.stop_gradient(masked(x, keep)) for x in arrays)

    def of_same_rank(own: Array, others: Array) -> Array:
        # Fillers come last on both sides, so that ranks of real pairs meet real pairs.
        rank = jnp.argsort(jnp.argsort(jnp.where(keep, own, jnp.inf)))
        return masked(jnp.sort(jnp.where(keep, others, jnp.inf))[rank], keep)

    columns = (
        of_same_rank(up - down, ref_up - ref_down) - (ref_up - ref_down),
        of_same_rank(up - ref_up, down - ref_down),
        of_same_rank(down - ref_down, up - ref_up),
    )
    return jnp.stack(columns, axis=1)


def _smoothed(logit: Array, smoothing: float) -> Array:
    right = -jax.nn.log_sigmoid(logit)
    return (1 - smoothing) * right - smoothing * jax.nn.log_sigmoid(-logit)


def _ipo(pair: Pair) -> Array:
    return (pair.per_token - 1 / (2 * pair.beta)) ** 2


def _exo(pair: Pair) -> Array:
    logit = pair.logit
    better = jax.nn.log_sigmoid(logit) - jnp.log1p(-pair.smoothing)
    worse = jax.nn.log_sigmoid(-logit) - jnp.log(pair.smoothing)
    return jax.nn.sigmoid(logit) * better + jax.nn.sigmoid(-logit) * worse


def _nca(pair: Pair) -> Array:
    up = pair.beta * pair.chosen
    down = pair.beta * pair.rejected
    pulled = jax.nn.log_sigmoid(-up) + jax.nn.log_sigmoid(-down)
    return -jax.nn.log_sigmoid(up) - 0.5 * pulled


def _robust(pair: Pair) -> Array:
    right = -jax.nn.log_sigmoid(pair.logit)
    wrong = -jax.nn.log_sigmoid(-pair.logit)
    e = pair.smoothing
    return ((1 - e) * right - e * wrong) / (1 - 2 * e)


def _bco(pair: Pair) -> Array:
    up = jax.nn.log_sigmoid(pair.beta * pair.chosen)
    return -up - jax.nn.log_sigmoid(-pair.beta * pair.rejected)


def _sppo(pair: Pair) -> Array:
    half = 0.5 / pair.beta
    return (pair.chosen - half) ** 2 + (pair.rejected + half) ** 2


def _aot(pair: Pair) -> Array:
    margin = pair.chosen - pair.rejected - pair.matches[:, 0]
    return _smoothed(pair.beta * margin, pair.smoothing)


def _aot_unpaired(pair: Pair) -> Array:
    up = _smoothed(pair.beta * (pair.chosen - pair.matches[:, 1]), pair.smoothing)
    # The same sum seen from the rejected side: it brings their gradient, and no value twice.
    down = _smoothed(pair.beta * (pair.matches[:, 2] - pair.rejected), pair.smoothing)
    return up + down - lax.stop_gradient(down)


def _apo_zero(pair: Pair) -> Array:
    up = jax.nn.sigmoid(pair.beta * pair.chosen)
    return 1 - up + jax.nn.sigmoid(pair.beta * pair.rejected)


def _apo_down(pair: Pair) -> Array:
    return jax.nn.sigmoid(pair.beta * pair.chosen) + 1 - jax.nn.sigmoid(pair.logit)


def _discopop(pair: Pair) -> Array:
    logit = pair.logit
    modulation = jax.nn.log_sigmoid(logit / pair.tau)
    # One exponential of both: apart, exp(-l) overflows where its factor is 0.
    exponential = jnp.exp(modulation - logit)
    logistic = -jax.nn.log_sigmoid(logit)
    return logistic * (1 - jnp.exp(modulation)) + exponential


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": lambda pair: _smoothed(pair.logit, pair.smoothing),
    "hinge": lambda pair: jax.nn.relu(1 - pair.logit),
    "ipo": _ipo,
    "exo_pair": _exo,
    "nca_pair": _nca,
    "robust": _robust,
    "bco_pair": _bco,
    "sppo_hard": _sppo,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "sigmoid_norm": lambda pair: -jax.nn.log_sigmoid(pair.beta * pair.per_token),
}
"""All of `LOSS_TYPES` but "sft", which is a mean over tokens, not over pairs."""
