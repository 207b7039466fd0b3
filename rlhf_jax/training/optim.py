"""Optimizers from configuration: an optax chain of clipping, the rule, decoupled weight decay and a
schedule."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from rlhf_jax.checked import checked
from rlhf_jax.training.adafactor import clip_by_layer_rms, scale_by_layer_factored_rms
from rlhf_jax.training.counts import is_held, schedule_count
from rlhf_jax.types import Params, Trained

DEFAULT_LEARNING_RATE = 1e-5
"""Where neither a configuration nor an algorithm gives one: an optimizer made by hand, or an
algorithm of a user's own."""
INVERSE_SQRT_TIMESCALE = 10_000
"""Steps after which a rate without warm-up has fallen to 0.71 of its peak, as in transformers."""


@checked
@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move."""

    name: Literal["adamw", "adafactor", "lion", "sgd"] = "adamw"
    """adamw | adafactor | lion | sgd."""
    learning_rate: float | None = None
    """Peak learning rate, after warm-up; null: the algorithm's own (sft 2e-5, reward_model 1e-4,
    dpo, kto, ppo, grpo and dapo 1e-6; see `rlhf-jax algorithms NAME`), and 1e-5 where no algorithm
    says one."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "cosine"
    """After warm-up: constant | linear (to `min_lr_ratio` at the last step) | cosine (likewise) |
    inverse_sqrt (falls with the root of the step, counted from the warm-up's length, or from 10000
    without warm-up, as in transformers)."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0 (as in transformers, the first step has rate 0 when there is
    one)."""
    warmup_ratio: float = 0.0
    """The same as a fraction of all steps, rounded up; give one of the two."""
    min_lr_ratio: float = 0.0
    """Final learning rate as a fraction of the peak (linear and cosine)."""
    b1: float = 0.9
    """Decay of the first moment (adamw, lion)."""
    b2: float = 0.999
    """Decay of the second moment (adamw, lion)."""
    eps: float = 1e-8
    """Added to the root of the second moment (adamw)."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    """Decoupled, multiplied by the learning rate."""
    decay_exclude: tuple[str, ...] = (r"norm/", r"/bias$")
    """Regular expressions of parameter names that are not decayed; norms and biases by default."""
    max_grad_norm: float | None = 1.0
    """Gradients of a larger global norm are scaled down to it; null: no clipping."""
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the first moment of adamw and lion: float32 | bfloat16."""

    def __post_init__(self) -> None:
        for name, value in (("b1", self.b1), ("b2", self.b2), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"optimizer.{name}={value} must be at least 0 and below 1")
        for name, value in (
            ("warmup_ratio", self.warmup_ratio),
            ("min_lr_ratio", self.min_lr_ratio),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"optimizer.{name}={value} must lie between 0 and 1")
        for name, number in (
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
        ):
            if number is not None and not 0 <= number < math.inf:
                raise ValueError(f"optimizer.{name}={number} must be finite and not negative")
        if not 0 < self.eps < math.inf:
            raise ValueError(
                f"optimizer.eps={self.eps} must be positive: a parameter without a gradient would "
                "divide 0 by 0"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"optimizer.max_grad_norm={self.max_grad_norm} must be positive; null switches "
                "clipping off"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps={self.warmup_steps} must not be negative")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(
                f"optimizer.warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio}: "
                "give one of the two, not both"
            )
        for pattern in self.decay_exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"optimizer.decay_exclude: {pattern!r} is not a regular expression: {error}"
                ) from error


def peak_rate(config: OptimizerConfig) -> float:
    """The peak learning rate."""
    return DEFAULT_LEARNING_RATE if config.learning_rate is None else config.learning_rate


def warmup_length(config: OptimizerConfig, total_steps: int | None = None) -> int:
    """Updates of warm-up in a run of `total_steps` updates, a started one counted whole."""
    return config.warmup_steps or math.ceil(config.warmup_ratio * (total_steps or 0))


def make_schedule(
    config: OptimizerConfig, *, total_steps: int | None = None
) -> Callable[[Any], Any]:
    """Learning rate as a function of the number of updates made so far.

    Args:
      config: see `OptimizerConfig`.
      total_steps: updates in the whole run; needed for a schedule that ends (linear, cosine) and
        for `warmup_ratio`.

    Returns:
      An optax schedule.

    Raises:
      ValueError: `total_steps` is missing where it is needed, or the warm-up is longer than the
        run.
    """
    if total_steps is None and (config.schedule in ("linear", "cosine") or config.warmup_ratio):
        raise ValueError(
            f"optimizer.schedule={config.schedule!r} needs the number of steps of the run: pass "
            "total_steps"
        )
    warmup = warmup_length(config, total_steps)
    if total_steps is not None and warmup > total_steps:
        raise ValueError(
            f"optimizer.warmup_steps={warmup} is more than the {total_steps} steps of the run"
        )
    peak = peak_rate(config)
    rest = max(1, (total_steps or 0) - warmup)
    timescale = warmup or INVERSE_SQRT_TIMESCALE
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, peak * config.min_lr_ratio, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.min_lr_ratio),
        "inverse_sqrt": lambda: (
            lambda count: peak * jnp.sqrt(timescale / (jnp.maximum(count, 0) + timescale))
        ),
    }[config.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    config: OptimizerConfig, *, total_steps: int | None = None, role: str | None = None
) -> optax.GradientTransformation:
    """An optax optimizer: clip by global norm, the rule, decoupled weight decay, learning-rate
    schedule.

    Args:
      config: see `OptimizerConfig`.
      total_steps: updates in the whole run (see `make_schedule`).
      role: name above the parameters' own, which `decay_exclude` does not see; None: there is none.

    Returns:
      An optax gradient transformation; its `update` needs the parameters.

    Raises:
      ValueError: as `make_schedule`.
    """
    schedule = make_schedule(config, total_steps=total_steps)
    rule = {
        "adamw": lambda: optax.scale_by_adam(
            config.b1, config.b2, config.eps, mu_dtype=config.moment_dtype
        ),
        "lion": lambda: optax.scale_by_lion(config.b1, config.b2, mu_dtype=config.moment_dtype),
        "sgd": lambda: optax.trace(config.momentum) if config.momentum else optax.identity(),
        "adafactor": lambda: optax.chain(scale_by_layer_factored_rms(), clip_by_layer_rms(1.0)),
    }[config.name]()
    clip = [clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm is not None else []
    decay = []
    if config.weight_decay:
        exclude = config.decay_exclude
        mask = functools.partial(decay_mask, exclude=exclude, role=role)
        decay = [optax.add_decayed_weights(config.weight_decay, mask=mask)]
    return in_float32(optax.chain(*clip, rule, *decay, optax.scale_by_learning_rate(schedule)))


def make_optimizers(
    config: OptimizerConfig, trained: Mapping[str, Trained], *, total_steps: int | None = None
) -> optax.GradientTransformation:
    """One optimizer per trained tree, side by side.

    Each clips its own gradient and has its own learning rate. In its first `hold` updates a tree
    and its moments stay as they are, and its schedule begins after them.

    Args:
      config: the rule of all.
      trained: role -> how it is trained.
      total_steps: updates in the whole run (see `make_schedule`).

    Returns:
      An optax gradient transformation over trees by role; its `update` needs the parameters.

    Raises:
      ValueError: a tree is held for the whole run; or as `make_schedule`.
    """

    def of_tree(role: str, tree: Trained) -> optax.GradientTransformation:
        steps = None if total_steps is None else total_steps - tree.hold
        if steps is not None and steps < 1:
            raise ValueError(
                f"the {role} rests in the first {tree.hold} of {total_steps} updates, which leaves "
                "none that trains it; train longer, or lower algorithm.critic_warmup"
            )
        own = make_optimizer(rate_config(config, tree), total_steps=steps, role=role)
        if not tree.hold:
            return own
        # In float32 around it too: both of its branches must give updates of one dtype.
        return in_float32(optax.conditionally_mask(own, lambda made: made >= tree.hold))

    transforms = {role: of_tree(role, tree) for role, tree in trained.items()}
    return optax.partition(transforms, {role: role for role in trained})


def make_rate(
    config: OptimizerConfig, trained: Mapping[str, Trained], *, total_steps: int | None = None
) -> Callable[[optax.OptState], Array]:
    """The policy's learning rate of the next update, from the state of `make_optimizers`.

    Args:
      config, trained, total_steps: as for `make_optimizers`.

    Returns:
      optimizer state -> float32 scalar; 0 while the policy rests.
    """
    policy = trained["policy"]
    steps = None if total_steps is None else total_steps - policy.hold
    schedule = make_schedule(rate_config(config, policy), total_steps=steps)

    def rate(opt_state: optax.OptState) -> Array:
        value = jnp.asarray(schedule(schedule_count(opt_state)), jnp.float32)
        return jnp.where(is_held(opt_state, policy.hold), 0.0, value)

    return rate


def rate_config(config: OptimizerConfig, tree: Trained) -> OptimizerConfig:
    """The optimizer section with the learning rate of one tree."""
    if tree.learning_rate is None:
        return config
    return dataclasses.replace(config, learning_rate=tree.learning_rate)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` as a product with one factor.

    In the branch of `make_update_step` a product is made again wherever it is read; for optax's
    division the compiler keeps a second copy of all gradients.
    """

    def scaled(updates: Params, params: Params | None) -> Params:
        del params
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(scaled)


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer with moments and arithmetic in float32 whatever the parameters' dtype.

    A second moment kept in bfloat16 stops moving: 0.999 of it rounds back to itself.
    (`moment_dtype` still sets the first moment's dtype.) The updates come out in float32;
    `optax.apply_updates` adds them before it rounds to the parameters.
    """

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

    def init(params: Params) -> optax.OptState:
        return tx.init(wide(params))

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        return tx.update(wide(updates), state, wide(params))

    return optax.GradientTransformation(init, update)


def decay_mask(params: Params, exclude: tuple[str, ...], *, role: str | None = None) -> Any:
    """True on the parameters whose "/"-joined name below the role matches none of the patterns."""

    def decayed(path: Any, _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        own = name if role is None else name.removeprefix(f"{role}/")
        return not any(re.search(pattern, own) for pattern in exclude)

    return jax.tree_util.tree_map_with_path(decayed, params)
