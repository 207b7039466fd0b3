"""Configuration of `rlhf-jax claims`: what somebody claims, and what it is measured by.

    comparisons:                  # finished, or still to be made
      sums: {results: runs/sums/results.json, config: sums.yaml}
    claims:
      - name: dapo_is_more_accurate
        says: DAPO is 9.2 points more accurate than PPO
        source: where that stands
        claimed: 0.092
        difference: {comparison: sums, run: dapo, against: ppo}

A claim has one of `difference`, `saving`, `bound`, `matched_kl` and `memory`; all else is how it is
measured.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_jax.checked import checked
from rlhf_jax.config.bases import merged
from rlhf_jax.config.build import Context, build
from rlhf_jax.config.compare import samples
from rlhf_jax.config.document import parse_document, read_document, render
from rlhf_jax.config.errors import ConfigError, did_you_mean
from rlhf_jax.config.load import apply_override, make_config
from rlhf_jax.config.schema import Config
from rlhf_jax.fields import plain

SAME_MODEL = "{model}"
"""In a set-up: a folder with the config.json of `setups.common.model`."""
KINDS = ("difference", "saving", "bound", "matched_kl", "memory")
Cost = Literal["step", "tokens", "seconds"]


@checked
@dataclass(frozen=True, kw_only=True)
class ComparisonSource:
    """A comparison that claims are measured on."""

    results: str
    """The results.json of `rlhf-jax compare`, or the same packed by gzip (.gz); where it is not
    there, claims on it are listed as not measured."""
    config: str
    """The file that `rlhf-jax compare` makes it from, for the command that is shown."""


@checked
@dataclass(frozen=True, kw_only=True)
class DifferenceConfig:
    """A metric of one run less that of another, seed by seed."""

    comparison: str
    """A name of `comparisons`."""
    run: str
    """Of the comparison: the one that the claim is about."""
    against: str
    """The run that it is compared with."""
    metric: str | None = None
    """Of the evaluations; null: the one that the comparison compares."""
    relative: bool = False
    """Divided by the metric of `against`."""
    at: tuple[Literal["end", "tokens", "step", "seconds"], ...] = ("end",)
    """When: after training; or at equal generated tokens, steps or seconds of training, at the last
    evaluation within the budget that both have spent."""

    def __post_init__(self) -> None:
        _check_two(self.run, self.against)
        _check_several("at", self.at)


@checked
@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """How much sooner a run gets somewhere: 1 less its cost as a share of the other run's."""

    comparison: str
    """A name of `comparisons`."""
    run: str
    """Of the comparison: the one that the claim is about."""
    against: str
    """The run that it is compared with."""
    metric: str | None = None
    """Of the evaluations; null: the one that the comparison compares."""
    costs: tuple[Cost, ...] = ("step", "tokens", "seconds")
    """Optimizer steps or rounds, generated tokens, seconds of training; each is told."""
    targets: tuple[Literal["own", "common"], ...] = ("own", "common")
    """own: each run its own final level; common: the lowest final level of `among`. Both are
    told."""
    share: float = 0.95
    """Of the way from a run's start to its own final level."""
    among: tuple[str, ...] = ()
    """Runs whose lowest final level is the common target; empty: the two compared ones."""

    def __post_init__(self) -> None:
        _check_two(self.run, self.against)
        _check_several("costs", self.costs)
        _check_several("targets", self.targets)
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")


@checked
@dataclass(frozen=True, kw_only=True)
class BoundConfig:
    """A metric of one run after training, against a bound."""

    comparison: str
    """A name of `comparisons`."""
    run: str
    """Of the comparison."""
    metric: str | None = None
    """Of the evaluations; null: the one that the comparison compares."""
    side: Literal["below", "above"] = "below"
    """Where the claim says that the metric lies."""
    share: bool = True
    """The metric is a share of answers (each counts 0 or 1): the interval is then at least as wide
    as the number of answers makes it."""


@checked
@dataclass(frozen=True, kw_only=True)
class MatchedKLConfig:
    """A metric of one run less that of another, where both have gone equally far from the start."""

    comparison: str
    """A name of `comparisons`."""
    run: str
    """Of the comparison: the one that the claim is about."""
    against: str
    """The run that it is compared with."""
    metric: str | None = None
    """Of the evaluations; null: the one that the comparison compares."""
    kl: tuple[float, ...] = (2.0, 5.0, 10.0)
    """Distances from the start, nats per answer; each is told."""
    kl_metric: str = "kl/ref_sequence"
    """Of the evaluations: how far the policy has gone from `evaluation.reference`, nats per
    answer."""

    def __post_init__(self) -> None:
        _check_two(self.run, self.against)
        _check_several("kl", self.kl)
        for value in self.kl:
            if not value > 0:
                raise ValueError(f"kl={list(self.kl)} holds {value}; it must be above 0 nats")


@checked
@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Bytes of one set-up against those of others."""

    setup: str
    """A name of `setups.runs`."""
    against: tuple[str, ...]
    """Names of `setups.runs`; the claim is judged for each."""
    quantity: Literal["saving", "excess"] = "saving"
    """saving: how much less `setup` needs than each of `against`, as a share of theirs; excess: how
    much more each of them needs, as a share of `setup`'s."""
    bytes: Literal["measured", "arithmetic"] = "measured"
    """measured: held while a compiled update runs, by the compiler; arithmetic: parameters,
    gradients and moments alone."""

    def __post_init__(self) -> None:
        _check_several("against", self.against)


@checked
@dataclass(frozen=True, kw_only=True)
class ClaimConfig:
    """One claim, and the one thing that it is measured by."""

    name: str
    """Of its rows in the table."""
    says: str
    """The claim in words."""
    source: str
    """Who says so, and what papers report."""
    claimed: float
    """The figure: difference of the metric, or a share (0.4 for 40 %). It counts as "at least so
    much"; where it is negative, as "at least so much less"."""
    difference: DifferenceConfig | None = None
    saving: SavingConfig | None = None
    bound: BoundConfig | None = None
    matched_kl: MatchedKLConfig | None = None
    memory: MemoryConfig | None = None

    def __post_init__(self) -> None:
        given = [kind for kind in KINDS if vars(self)[kind] is not None]
        if len(given) != 1:
            raise ValueError(
                f"{self.name}: give one of {', '.join(KINDS)}, "
                f"not {' and '.join(given) or 'none of them'}"
            )
        if not math.isfinite(self.claimed):
            raise ValueError(f"claimed={self.claimed} of {self.name} must be a finite number")
        if self.claimed == 0 and self.bound is None:
            raise ValueError(
                f"claimed=0 of {self.name} has no direction; give what is claimed, such as 0.1"
            )

    @property
    def kind(self) -> str:
        """Which of `KINDS` it has."""
        return next(kind for kind in KINDS if vars(self)[kind] is not None)

    @property
    def measure(self) -> Any:
        """What it is measured by."""
        return vars(self)[self.kind]


@checked
@dataclass(frozen=True, kw_only=True)
class SetupConfig:
    """A run that is not made, only counted: what it would hold."""

    name: str
    """Of its row in the table of memory."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as far as it differs from `setups.common` and `setups.prompts`. The text
    `{model}` is a folder with the config.json of the common model: the path of a reward model of
    the same size."""


@checked
@dataclass(frozen=True, kw_only=True)
class SetupsConfig:
    """Set-ups whose memory is compared: nothing is loaded and nothing is trained."""

    common: dict[str, Any]
    """Sections of every set-up; the model's is one of them."""
    prompts: dict[str, Any] = field(default_factory=dict)
    """Sections of those that sample."""
    runs: tuple[SetupConfig, ...]
    """The set-ups."""

    def __post_init__(self) -> None:
        names = [setup.name for setup in self.runs]
        if not names:
            raise ValueError("runs is empty; give at least one set-up")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"runs: {twice!r} names two set-ups; give each its own name")

    def run_config(self, setup: SetupConfig, model: str) -> Config:
        """The whole configuration of a set-up.

        Args:
          setup: one of `runs`.
          model: what `{model}` stands for.

        Raises:
          ConfigError: what it says does not make a run.
        """
        tree = self.common
        if samples(merged(self.common, setup.config)):
            tree = merged(tree, self.prompts)
        own = {"run_dir": "none"} | merged(tree, setup.config)
        try:
            return make_config(_replaced(own, model))
        except ConfigError as error:
            raise ConfigError(f"setups.runs: {setup.name}: {error}") from None


@checked
@dataclass(frozen=True, kw_only=True)
class ClaimsConfig:
    """Claims and what they are measured by."""

    claims: tuple[ClaimConfig, ...]
    """What is claimed."""
    comparisons: dict[str, ComparisonSource] = field(default_factory=dict)
    """Name -> a comparison."""
    setups: SetupsConfig | None = None
    """What claims about memory are measured on."""
    statistic: Literal["interquartile_mean", "mean", "median"] = "interquartile_mean"
    """Of the seeds."""
    pairing: Literal["seed", "none"] = "seed"
    """seed: two runs are compared within each seed, which share start and prompts; none: their
    statistics are compared, seeds drawn for each on its own."""
    confidence: float = 0.95
    """Share of the bootstrap's draws that lie inside of an interval."""

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError("claims is empty; give at least one")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must be above 0 and below 1")
        names = [claim.name for claim in self.claims]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"claims: {twice!r} names two claims; give each its own name")

    def to_yaml(self) -> str:
        """The complete configuration as YAML; `load_claims` reads it back equal."""
        return render(plain(self))


def load_claims(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ClaimsConfig:
    """Reads a file of claims, applies overrides (`claims[0].claimed=0.1`), checks it.

    Args:
      path: a YAML file.
      overrides: `key=value` each; later ones win.

    Raises:
      ConfigError: anything wrong, in one line with key, value, what is allowed and the place.
    """
    document = read_document(pathlib.Path(path))
    return _assemble(document.tree, document.places(path), overrides)


def make_claims(tree: dict[str, Any], overrides: Sequence[str] = ()) -> ClaimsConfig:
    """`load_claims` for nested dicts instead of a file."""
    return _assemble(parse_document(render(tree), "config").tree, {}, overrides)


def _assemble(
    tree: dict[str, Any], sources: dict[str, str], overrides: Sequence[str]
) -> ClaimsConfig:
    for override in overrides:
        apply_override(tree, override, sources)
    context = Context(sources)
    config: ClaimsConfig = build(ClaimsConfig, tree, context=context)
    for place, claim in enumerate(config.claims):
        key = f"claims[{place}].{claim.kind}"
        if claim.memory is None:
            _check_name(context, f"{key}.comparison", claim.measure.comparison, config.comparisons)
        else:
            known = [] if config.setups is None else [run.name for run in config.setups.runs]
            _check_name(context, f"{key}.setup", claim.memory.setup, known)
            for name in claim.memory.against:
                _check_name(context, f"{key}.against", name, known)
    if config.setups is not None:
        for setup in config.setups.runs:
            config.setups.run_config(setup, "model")
    return config


def _check_name(
    context: Context, key: str, name: str, known: Sequence[str] | dict[str, Any]
) -> None:
    if name not in known:
        there = ", ".join(known) or "none"
        text = f"{key}: {name!r} is not there; there are: {there}{did_you_mean(name, known)}"
        raise context.error(key, text)


def _check_two(run: str, against: str) -> None:
    if run == against:
        raise ValueError(f"against={against!r} is the run itself; give another one")


def _check_several(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}={list(values)} must be at least one, and all different")


def _replaced(value: Any, model: str) -> Any:
    """`{model}` as a path."""
    if isinstance(value, dict):
        return {name: _replaced(item, model) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, model) for item in value]
    return model if value == SAME_MODEL else value
