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
as the reward model that PPO needs; `{NAME}/correct.jsonl` is a file in the folder of an earlier
one, such as the samples of a preparation with `draw`. `base` and `like` (`config.bases`) make a
file go on from another one, and a run from another run.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.checked import checked
from rlhf_jax.config.bases import merged, read_with_base, write_out
from rlhf_jax.config.build import Context, build
from rlhf_jax.config.document import parse_document, render
from rlhf_jax.config.errors import ConfigError
from rlhf_jax.config.load import apply_override, make_config
from rlhf_jax.config.measure import MeasureConfig, check_judged_alike
from rlhf_jax.config.protocol import DrawConfig, TuningConfig
from rlhf_jax.config.schema import Config
from rlhf_jax.fields import plain, texts_of

EXPORT = "export:"
FILE_OF = re.compile(r"\{(?P<name>[^{}/]+)\}/(?P<file>.+)")
"""A file in the folder of an earlier run."""
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
    accept: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of `start` alone: metric of its answers to the held-out prompts -> lowest and highest value
    with which the comparison goes on."""
    draw: DrawConfig | None = None
    """Of a preparation, in place of `config`: nothing is trained, the start is sampled. Writes
    correct.jsonl (prompt, completion) and pairs.jsonl (prompt, chosen, rejected)."""
    best_of: int | None = None
    """Of a run, in place of `config`: nothing is trained, the start answers each held-out prompt so
    often, and the answer with the highest reward counts."""

    def __post_init__(self) -> None:
        if self.best_of is not None and self.best_of < 1:
            raise ValueError(f"{self.name}: best_of={self.best_of} must be at least 1")
        for metric, (low, high) in self.accept.items():
            if not low <= high:
                raise ValueError(
                    f"accept: {metric}=[{low}, {high}] must be the lowest and the highest value, "
                    "in this order"
                )
        if not self.is_trained and self.config:
            raise ValueError(
                f"{self.name}: draw and best_of train nothing, so leave config={self.config} out"
            )

    @property
    def is_trained(self) -> bool:
        """Whether it is a run of `train`."""
        return self.draw is None and self.best_of is None


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
    """Runs from the same start that are not compared but needed, such as a reward model. Like the
    start they are made once per seed, and once in all where there is no `start` or its `config`
    gives the seed."""
    tuning: TuningConfig | None = None
    """An option that is chosen on seeds of its own before the runs are made; null: none is."""
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
        self._check_protocol()
        unknown = next((section for section in self.prompts if section not in ONLINE), None)
        if unknown is not None:
            raise ValueError(f"prompts: unknown section {unknown!r}; allowed: {', '.join(ONLINE)}")

    def _check_protocol(self) -> None:
        """Keys of the protocol stand where they mean something."""
        for stage in (*self.preparations, *self.runs):
            if stage.accept:
                raise ValueError(f"{stage.name}: accept belongs to start; give it there")
        for stage in (*(() if self.start is None else (self.start,)), *self.runs):
            if stage.draw is not None:
                raise ValueError(f"{stage.name}: draw belongs to preparations; give it there")
        for stage in (*(() if self.start is None else (self.start,)), *self.preparations):
            if stage.best_of is not None:
                raise ValueError(f"{stage.name}: best_of belongs to runs; give it there")
        places = {"common": self.common} | {f"{run.name}: config": run.config for run in self.runs}
        for place, tree in places.items():
            if "seed" in tree:
                raise ValueError(
                    f"{place} gives seed={tree['seed']}, which would make all of the seeds "
                    f"{list(self.seeds)} the same run; say it by `seeds` (start.config may have a "
                    "seed: all seeds then share one start)"
                )
        if self.tuning is None:
            return
        if self.tuning.key == "seed":
            raise ValueError("tuning.key=seed: a seed is luck, which nobody can choose")
        both = sorted(set(self.tuning.seeds) & set(self.seeds))
        if both:
            raise ValueError(
                f"tuning.seeds={list(self.tuning.seeds)} holds {both[0]}, which is reported too; "
                "tune on other seeds than those of the comparison"
            )
        trained = [stage.name for stage in self.runs if stage.is_trained]
        for name in self.tuning.runs:
            if name not in trained:
                raise ValueError(
                    f"tuning.runs: {name!r} is no run that trains; those are {', '.join(trained)}"
                )

    def is_shared(self, stage: StageConfig) -> bool:
        """Whether a stage is made once for all seeds: before the runs, from a start whose seed is
        fixed."""
        is_fixed = self.start is None or "seed" in self.start.config
        return is_fixed and stage not in self.runs

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """All runs in the order in which they are made."""
        return (*(() if self.start is None else (self.start,)), *self.preparations, *self.runs)

    def folder(self, stage: StageConfig, seed: int) -> pathlib.Path:
        """Run folder of a stage."""
        return pathlib.Path(self.run_dir) / (
            stage.name if self.is_shared(stage) else f"{stage.name}/seed_{seed}"
        )

    def run_config(self, stage: StageConfig, seed: int) -> Config:
        """The whole configuration of one run.

        Raises:
            ConfigError: what it says does not make a run, or it names an export that no earlier run
              makes.
        """
        earlier = self.stages[: self.stages.index(stage)]
        folders = {other.name: str(self.folder(other, seed)) for other in earlier}
        try:
            tree = self._tree(stage.config, is_start=stage is self.start)
            own = {"seed": seed} | tree | {"run_dir": str(self.folder(stage, seed))}
            return make_config(_with_folders(own, folders))
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
            filled = _with_folders(own, self._folders(seed))
            return build(MeasureConfig, parse_document(render(filled), "config").tree)
        except ConfigError as error:
            raise ConfigError(f"held-out prompts: {error}") from None

    def tuned(self, name: str, value: Any) -> "CompareConfig":
        """The comparison with a value of `tuning.key` in one of its runs."""
        assert self.tuning is not None
        above: Any = value
        for part in reversed(self.tuning.key.split(".")):
            above = {part: above}
        runs = tuple(
            dataclasses.replace(run, config=merged(run.config, above)) if run.name == name else run
            for run in self.runs
        )
        return dataclasses.replace(self, runs=runs)

    def trial(self, name: str, value: Any) -> tuple["CompareConfig", StageConfig]:
        """The comparison in which a run with a value of `tuning.key` has a folder of its own, and
        that run. It is measured at its end only, which is what `tune` asks for, unless its
        measurements decide when it ends or which model it keeps."""
        assert self.tuning is not None
        renamed = f"{name}.tuning_{value}"
        changed = self.tuned(name, value)
        run_config = changed.run_config(changed.run(name), self.tuning.seeds[0])
        stops_early = run_config.training.early_stopping is not None
        decides = stops_early or run_config.checkpoint.keep_best > 0
        at_end = {} if decides else {"training": {"eval_every": 0, "save_every": 0}}
        runs = tuple(
            dataclasses.replace(run, name=renamed, config=merged(run.config, at_end))
            if run.name == name
            else run
            for run in changed.runs
        )
        whole = dataclasses.replace(changed, runs=runs, tuning=None)
        return whole, whole.run(renamed)

    def run(self, name: str) -> StageConfig:
        """The compared run with a name.

        Raises:
            ConfigError: there is none.
        """
        found = next((run for run in self.runs if run.name == name), None)
        if found is None:
            known = ", ".join(run.name for run in self.runs)
            raise ConfigError(f"{name!r} is no run of the comparison; runs: {known}")
        return found

    def needed(self, stage: StageConfig) -> list[StageConfig]:
        """The earlier stages that a stage or the measurement reads, and those that they read, in
        the order in which they are made; the start of all is one of them."""
        return self.needed_by(stage, self.stages[: self.stages.index(stage)])

    def needed_by(self, stage: StageConfig, earlier: Sequence[StageConfig]) -> list[StageConfig]:
        """`needed` of a stage that stands behind some others."""
        texts = [*texts_of(merged(self.common, self.prompts)), *texts_of(stage.config)]
        direct = [
            other
            for other in earlier
            if other is self.start
            or f"{EXPORT}{other.name}" in texts
            or any(text.startswith(f"{{{other.name}}}/") for text in texts)
        ]
        found = {one.name for one in direct}
        found |= {below.name for other in direct for below in self.needed(other)}
        return [other for other in earlier if other.name in found]

    def _folders(self, seed: int) -> dict[str, str]:
        return {stage.name: str(self.folder(stage, seed)) for stage in self.stages}

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
    """Reads the configuration of a comparison, applies overrides (`seeds=[0, 1, 2]`), checks every
    run in it.

    Raises:
        ConfigError: anything wrong, in one line.
    """
    tree, sources = read_with_base(path)
    return _assemble(tree, sources, overrides)


def make_compare(tree: dict[str, Any], overrides: Sequence[str] = ()) -> CompareConfig:
    """`load_compare` for nested dicts instead of a file."""
    whole = write_out(parse_document(render(tree), "config").tree, {}, pathlib.Path())
    return _assemble(whole.tree, whole.sources, overrides)


def _assemble(
    tree: dict[str, Any], sources: dict[str, str], overrides: Sequence[str]
) -> CompareConfig:
    for override in overrides:
        apply_override(tree, override, sources)
    config: CompareConfig = build(CompareConfig, tree, context=Context(sources))
    for seed in config.seeds:
        measuring = config.measuring_config(seed)
        for stage in config.stages:
            if stage.is_trained:
                made = config.run_config(stage, seed)
                if stage in config.runs:
                    check_judged_alike(stage.name, made, measuring)
    if config.tuning is not None:
        for name in config.tuning.runs:
            for value in config.tuning.values:
                whole, stage = config.trial(name, value)
                whole.run_config(stage, config.tuning.seeds[0])
    return config


def samples(tree: dict[str, Any]) -> bool:
    """Whether the algorithm that a tree names samples completions; an unknown name is
    `make_config`'s to refuse."""
    section = tree.get("algorithm")
    name = section.get("name") if isinstance(section, dict) else None
    if name not in ALGORITHMS:
        return False
    chosen: Any = algorithm_config(name)
    return bool(chosen.data == "prompts")


def _with_folders(value: Any, folders: dict[str, str]) -> Any:
    """`export:NAME` and `{NAME}/...` as paths."""
    if isinstance(value, dict):
        return {name: _with_folders(item, folders) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_folders(item, folders) for item in value]
    if not isinstance(value, str):
        return value
    inside = FILE_OF.match(value)
    name = value.removeprefix(EXPORT) if value.startswith(EXPORT) else inside and inside["name"]
    if name is None:
        return value
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise ConfigError(
            f"{value!r} names no earlier run of the comparison; earlier runs: {known}"
        )
    return f"{folders[name]}/export" if inside is None else f"{folders[name]}/{inside['file']}"
