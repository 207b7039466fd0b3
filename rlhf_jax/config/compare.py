"""Configuration of a comparison: one starting model, and several algorithms that train it.

    run_dir: runs/compare
    common:                       # sections of every run, as in a run's own configuration
      model: {path: my-model}
      data: {path: my-data, eval_size: 500}
    prompts:                      # sections of every run that samples, and of the measurement
      rewards: [{function: math}]
    runs:
      - {name: dpo, config: {algorithm: {name: dpo}}}
      - {name: grpo, config: {algorithm: {name: grpo}, optimizer: {learning_rate: 1e-6}}}

A run's tree is laid over `prompts` (online algorithms only) and those over `common`; lists replace
lists. A text value `export:NAME` is the exported folder of an earlier run of the comparison, such
as the reward model that PPO needs.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.checked import checked
from rlhf_jax.config.build import Context, build
from rlhf_jax.config.document import parse_document, read_document, render
from rlhf_jax.config.errors import ConfigError
from rlhf_jax.config.load import apply_override, make_config
from rlhf_jax.config.measure import MeasureConfig
from rlhf_jax.config.schema import Config
from rlhf_jax.fields import plain

EXPORT = "export:"
ONLINE = ("rollout", "rewards", "reward_pool", "evaluation")
"""Sections that `prompts` may hold."""


@checked
@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One run of a comparison."""

    name: str
    """Of its folder and of its row in the table."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as far as it differs from `common` and `prompts`."""
    title: str | None = None
    """One line about it, shown when it begins; null: its name and what its algorithm is."""


@checked
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """A comparison: preparations are trained once, then every run from the same start, once per
    seed."""

    run_dir: str
    """Folder of the comparison: every run's folder, compare.json, compare.md, compare.png."""
    runs: tuple[StageConfig, ...]
    """What is compared."""
    common: dict[str, Any] = field(default_factory=dict)
    """Sections of every run."""
    prompts: dict[str, Any] = field(default_factory=dict)
    """rollout, rewards, reward_pool and evaluation of every online run and of the measurement on
    held-out prompts."""
    start: StageConfig | None = None
    """The run whose exported model the others start from; null: all start from
    common.model.path."""
    preparations: tuple[StageConfig, ...] = ()
    """Runs from the same start that are not compared but needed, such as a reward model; made with
    the first seed."""
    seeds: tuple[int, ...] = (0,)
    """Every compared run is made once per seed; the table shows mean and standard deviation."""
    reach: float = 0.9
    """Share of the best accuracy to which steps and seconds are counted."""

    def __post_init__(self) -> None:
        if not self.run_dir:
            raise ValueError(
                "run_dir is empty; give the folder of the comparison, for example "
                "run_dir=runs/compare"
            )
        if not self.runs:
            raise ValueError(
                "runs is empty; give at least one, such as runs=[{name: grpo, config: {algorithm: "
                "{name: grpo}}}]"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} must be at least one, and all different")
        if not 0 < self.reach <= 1:
            raise ValueError(f"reach={self.reach} must be above 0 and at most 1")
        names = [stage.name for stage in self.stages]
        for name in names:
            if name in ("", "..") or pathlib.PurePath(name).name != name:
                raise ValueError(f"runs: name={name!r} must be the name of a folder")
            if names.count(name) > 1:
                raise ValueError(f"runs: {name!r} names two runs; give each its own name")
        unknown = next((section for section in self.prompts if section not in ONLINE), None)
        if unknown is not None:
            raise ValueError(f"prompts: unknown section {unknown!r}; allowed: {', '.join(ONLINE)}")

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """All runs in the order in which they are made."""
        return (*(() if self.start is None else (self.start,)), *self.preparations, *self.runs)

    def folder(self, stage: StageConfig, seed: int) -> pathlib.Path:
        """Run folder of a stage."""
        return pathlib.Path(self.run_dir) / (
            f"{stage.name}/seed_{seed}" if stage in self.runs else stage.name
        )

    def run_config(self, stage: StageConfig, seed: int) -> Config:
        """The whole configuration of one run.

        Raises:
            ConfigError: what it says does not make a run, or it names an export that no earlier run
              makes.
        """
        earlier = self.stages[: self.stages.index(stage)]
        exports = {other.name: str(self.folder(other, seed) / "export") for other in earlier}
        try:
            tree = self._tree(stage.config, is_start=stage is self.start)
            tree = _with_exports(
                {"seed": seed} | tree | {"run_dir": str(self.folder(stage, seed))}, exports
            )
            return make_config(tree)
        except ConfigError as error:
            raise ConfigError(f"{stage.name}: {error}") from None

    def measuring_config(self, seed: int) -> MeasureConfig:
        """How a model's answers to the held-out prompts are measured: by the sections of `common`
        and `prompts` that say so.

        Raises:
            ConfigError: `common` and `prompts` do not make one.
        """
        tree = merged(self.common, self.prompts)
        if self.start is not None:
            tree = merged(tree, {"model": {"path": f"{EXPORT}{self.start.name}"}})
        known = {option.name for option in dataclasses.fields(MeasureConfig)}
        own = {"seed": seed} | {name: value for name, value in tree.items() if name in known}
        try:
            filled = _with_exports(own, self._exports(seed))
            return build(MeasureConfig, parse_document(render(filled), "config").tree)
        except ConfigError as error:
            raise ConfigError(f"held-out prompts: {error}") from None

    def _exports(self, seed: int) -> dict[str, str]:
        return {stage.name: str(self.folder(stage, seed) / "export") for stage in self.stages}

    def _tree(self, own: dict[str, Any], *, is_start: bool) -> dict[str, Any]:
        tree = self.common
        if self.start is not None and not is_start:
            tree = merged(tree, {"model": {"path": f"{EXPORT}{self.start.name}"}})
        if samples(merged(self.common, own)):
            tree = merged(tree, self.prompts)
        return merged(tree, own)

    def to_yaml(self) -> str:
        """The complete configuration as YAML; `load_compare` reads it back equal."""
        return render(plain(self))


def load_compare(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> CompareConfig:
    """Reads the configuration of a comparison, applies overrides (`runs[0].config.seed=1`), checks
    every run in it.

    Raises:
        ConfigError: anything wrong, in one line.
    """
    document = read_document(pathlib.Path(path))
    return _assemble(
        document.tree,
        {key: f"{path} line {line}" for key, line in document.lines.items()},
        overrides,
    )


def make_compare(tree: dict[str, Any], overrides: Sequence[str] = ()) -> CompareConfig:
    """`load_compare` for nested dicts instead of a file."""
    return _assemble(parse_document(render(tree), "config").tree, {}, overrides)


def _assemble(
    tree: dict[str, Any], sources: dict[str, str], overrides: Sequence[str]
) -> CompareConfig:
    for override in overrides:
        apply_override(tree, override, sources)
    config: CompareConfig = build(CompareConfig, tree, context=Context(sources))
    for seed in config.seeds:
        config.measuring_config(seed)
        for stage in config.stages:
            config.run_config(stage, seed)
    return config


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other; every other value of `above` takes the place of the one
    below."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        result[name] = (
            merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        )
    return result


def samples(tree: dict[str, Any]) -> bool:
    """Whether the algorithm that a tree names samples completions; an unknown name is
    `make_config`'s to refuse."""
    section = tree.get("algorithm")
    name = section.get("name") if isinstance(section, dict) else None
    if name not in ALGORITHMS:
        return False
    chosen: Any = algorithm_config(name)
    return bool(chosen.data == "prompts")


def _with_exports(value: Any, exports: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _with_exports(item, exports) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_exports(item, exports) for item in value]
    if isinstance(value, str) and value.startswith(EXPORT):
        name = value.removeprefix(EXPORT)
        if name not in exports:
            known = ", ".join(exports) or "none"
            raise ConfigError(
                f"{value!r} names no earlier run of the comparison; earlier runs: {known}"
            )
        return exports[name]
    return value
