"""The commands of `rlhf-jax`. Each imports runs and models after the configuration is read."""

import argparse
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_jax import cloud
from rlhf_jax.algorithms import ALGORITHMS, algorithm_config
from rlhf_jax.cli.bench import bench as bench_command
from rlhf_jax.cli.bench import check_options, compare_with_others, draw_curves, list_suites
from rlhf_jax.cli.claims import claims as claims_command
from rlhf_jax.cli.compare import compare as compare_command
from rlhf_jax.cli.compare import quickstart as quickstart_command
from rlhf_jax.cli.data import data
from rlhf_jax.cli.generate import generate
from rlhf_jax.cli.keys import describe_algorithm
from rlhf_jax.cli.launch import launch
from rlhf_jax.cli.output import print_metrics, print_table, say
from rlhf_jax.cli.plan import plan as plan_command
from rlhf_jax.cli.report import metrics, report, show
from rlhf_jax.config import ConfigError, load_claims, load_config
from rlhf_jax.config.errors import did_you_mean
from rlhf_jax.console import stderr_handler
from rlhf_jax.fields import in_yaml
from rlhf_jax.handed import handed, is_handed
from rlhf_jax.rewards import RewardConfig, untrusted

STAGES = {
    "text": "text, or prompts with answers",
    "pairs": "preference pairs",
    "unpaired": "single answers, each labelled good or bad",
    "prompts": "prompts and a reward",
}


def train(options: argparse.Namespace) -> int:
    """`rlhf-jax train CONFIG [section.key=value ...]`."""
    config = load_config(options.config, options.overrides)
    live = show_logs(live=not options.no_progress)
    from rlhf_jax import io, runs  # heavy, and not needed for a mistake in the configuration
    from rlhf_jax.sharding import processes

    result = runs.train(config, progress=live)
    if not processes.is_leader():
        return 130 if result.interrupted else 0
    evaluations = [row for row in io.read_metrics(result.run_dir) if row["split"] == "eval"]
    if evaluations:
        print_evaluations(f"held-out metrics of {result.run_dir}", evaluations)
    say(f"run folder: {result.run_dir} ({result.steps} steps)")
    if result.interrupted:
        say("interrupted; the state is saved, and the same command goes on from there")
        return 130
    say(f"exported model: {result.export_dir}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """`rlhf-jax evaluate CONFIG_OR_RUN [section.key=value ...]`."""
    target = cloud.place(options.target, "RUN")
    is_run = target.is_dir()
    if not is_run and (options.best or options.step is not None):
        raise ConfigError(
            f"--step and --best choose a checkpoint of a run folder, and {target} is none"
        )
    run_dir = run_folder_of(target) if is_run else target
    config = load_config(
        cloud.fetched(run_dir / "config.yaml" if is_run else target),
        options.overrides,
        trusted=options.trust_rewards or not is_run,
    )
    if is_run and not options.trust_rewards:
        check_rewards_built_in(config.rewards, target)
    show_logs(live=False)
    from rlhf_jax import runs  # heavy
    from rlhf_jax.runs.export import best_step

    if is_run:
        step = best_step(run_dir) if options.best else options.step
        metrics = runs.evaluate(config, checkpoint=str(target), step=step)
    else:
        metrics = runs.evaluate(config)
    print_metrics(
        f"{target if is_run else config.model.path or 'random weights'} on held-out data",
        {"value": metrics},
    )
    return 0


def check_rewards_built_in(rewards: Sequence[RewardConfig], target: pathlib.Path) -> None:
    """Refuses reward functions of a run folder that are not the library's own: they would be run.

    Raises:
        ConfigError: there is one, and `--trust-rewards` was not given.
    """
    foreign = untrusted(rewards)
    for reward in foreign:
        if is_handed(reward.function):  # no other program has it: says so
            handed("rewards.function", reward.function, "rewards=[...]")
    if foreign:
        raise ConfigError(
            f"the configuration of {target} names the reward function {foreign[0].function!r}, "
            "which would be run: look at it, and add --trust-rewards if you trust it"
        )


def export(options: argparse.Namespace) -> int:
    """`rlhf-jax export CHECKPOINT FOLDER`."""
    show_logs(live=False)
    from rlhf_jax import runs  # heavy

    folder = runs.export(
        options.checkpoint,
        options.folder,
        step=options.step,
        best=options.best,
        dtype=options.dtype,
    )
    say(f"exported model: {folder}")
    return 0


def models(options: argparse.Namespace) -> int:
    """`rlhf-jax models`."""
    from rlhf_jax.models import FAMILIES  # heavy

    rows = [
        (name, family.title, family.causal, family.classifier) for name, family in FAMILIES.items()
    ]
    print_table(
        "model families (config.json + safetensors)",
        ["model_type", "models", "language model", "reward model"],
        rows,
    )
    say(
        "model.path loads one from a local folder or a hub id; model.config starts one with random "
        "weights from the keys of a"
    )
    say(
        "Hugging Face config.json, such as {model_type: qwen2, vocab_size: 4096, hidden_size: 256, "
        "num_hidden_layers: 4, ...}."
    )
    return 0


def algorithms(options: argparse.Namespace) -> int:
    """`rlhf-jax algorithms [NAME]`."""
    if options.name is not None:
        if options.name not in ALGORITHMS:
            hint = did_you_mean(options.name, ALGORITHMS)
            raise ConfigError(
                f"{options.name!r} is not an algorithm; there are {', '.join(ALGORITHMS)}{hint}"
            )
        config: Any = algorithm_config(options.name)
        say(f"{options.name}: {config.summary}\n")
        say(f"data: {STAGES[config.data]}")
        say(f"from the command line: rlhf-jax train, with algorithm.name={options.name}\n")
        say(f"keys (type, default):\n{describe_algorithm(options.name)}")
        show_presets(options.name)
        return 0
    rows = []
    for name in ALGORITHMS:
        config = algorithm_config(name)
        rows.append((name, STAGES[config.data], config.summary))
    print_table("algorithms", ["name", "data", "what"], rows)
    for name in ALGORITHMS:
        show_presets(name)
    say(
        "rlhf-jax algorithms NAME shows the options of one; the losses are functions in "
        "rlhf_jax.algorithms."
    )
    return 0


def show_presets(name: str) -> None:
    """Prints what each preset of an algorithm sets, and its paper; nothing where there are none."""
    presets = vars(algorithm_config(name)).get("presets", {})
    if presets:
        say(f"algorithm: {{name: {name}, preset: ...}} (keys that are given win)")
    for preset, (options, paper) in presets.items():
        words = ", ".join(f"{key}={in_yaml(value)}" for key, value in options.items())
        say(f"  {preset}: {words}\n      {paper}")


def compare(options: argparse.Namespace) -> int:
    """`rlhf-jax compare CONFIG [section.key=value ...]`."""
    return compare_command(options, live=show_logs(live=not options.no_progress, story=True))


def claims(options: argparse.Namespace) -> int:
    """`rlhf-jax claims FILE [key=value ...]`."""
    config = load_claims(options.config, options.overrides)
    show_logs(live=False)
    return claims_command(options, config)


def quickstart(options: argparse.Namespace) -> int:
    """`rlhf-jax quickstart [RUN_DIR]`."""
    return quickstart_command(options, live=show_logs(live=not options.no_progress, story=True))


def bench(options: argparse.Namespace) -> int:
    """`rlhf-jax bench CONFIG [section.key=value ...]`, `rlhf-jax bench --suite cpu [NAME ...]`."""
    if options.list:
        return list_suites()
    check_options(options)
    if options.curves:
        return draw_curves(options)
    if options.suite is not None:
        return compare_with_others(options)
    if options.config is None:
        raise ConfigError("bench needs a configuration, --suite cpu, --curves, or --list")
    config = load_config(options.config, options.overrides)
    show_logs(live=False)
    return bench_command(options, config)


def plan(options: argparse.Namespace) -> int:
    """`rlhf-jax plan CONFIG [section.key=value ...] --device NAME`."""
    config = load_config(options.config, options.overrides)
    show_logs(live=False)
    return plan_command(options, config)


def print_evaluations(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """The first and the last evaluation side by side."""
    ends = {f"step {row['step']:.0f}": row for row in (rows[0], rows[-1])}
    metrics = {
        heading: {name: row[name] for name in row if not NO_RESULT.fullmatch(name)}
        for heading, row in ends.items()
    }
    print_metrics(title, metrics)


def run_folder_of(target: cloud.Place) -> cloud.Place:
    """The run folder of a path that is one, its `checkpoints`, or one checkpoint."""
    whole = target if cloud.is_bucket(target) else target.absolute()
    for folder in (target, *whole.parents[:2]):
        if (folder / "config.yaml").exists():
            return folder
    raise ConfigError(
        f"{target} holds no config.yaml, so it is no run; for a model folder: evaluate CONFIG "
        f"model.path={target}"
    )


NO_RESULT = re.compile(r"step|split|loss/weight|time/.*")
"""What stands in a row of an evaluation and is no result of it."""
STORY = (
    "rlhf_jax.runs.story",
    "rlhf_jax.runs.compare",
    "rlhf_jax.runs.making",
    "rlhf_jax.runs.draws",
    "rlhf_jax.io.progress",
    "rlhf_jax.io.interrupt",
)
"""Who tells how several runs go, one after the other; each run's log.txt has the rest."""


def show_logs(*, live: bool, story: bool = False) -> bool:
    """Shows the library's log on standard error, plain; step by step only without a live display.

    Args:
        live: a live display is wanted.
        story: of several runs: only headings, steps, evaluations and warnings.

    Returns:
        Whether there is one: it also needs a terminal.
    """
    live = live and sys.stderr.isatty()
    handler = stderr_handler(live=live)
    if story:
        handler.addFilter(
            lambda record: record.levelno >= logging.WARNING or record.name.startswith(STORY)
        )
    logger = logging.getLogger("rlhf_jax")
    for old in [old for old in logger.handlers if old.get_name() == "rlhf_jax.cli"]:
        logger.removeHandler(old)
    handler.set_name("rlhf_jax.cli")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # some libraries configure the root logger, which would show every line twice
    logger.propagate = False
    return live


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "claims": claims,
    "data": data,
    "export": export,
    "generate": generate,
    "launch": launch,
    "models": models,
    "algorithms": algorithms,
    "bench": bench,
    "plan": plan,
    "quickstart": quickstart,
    "report": report,
    "show": show,
    "metrics": metrics,
}
