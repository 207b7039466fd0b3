"""`rlhf-jax compare` and `rlhf-jax quickstart`."""

import argparse
import pathlib
from typing import Any

from rlhf_jax.cli.output import print_table, say
from rlhf_jax.config import CompareConfig, ConfigError, load_compare
from rlhf_jax.config.document import render


def compare(options: argparse.Namespace, *, live: bool) -> int:
    """`rlhf-jax compare CONFIG [section.key=value ...]`."""
    if pathlib.Path(options.config).is_dir():
        folders = " ".join([options.config, *options.overrides])
        raise ConfigError(
            f"{options.config} is a folder, and compare trains what a configuration file says; to "
            f"compare runs that are there: rlhf-jax report {folders}"
        )
    config = load_compare(options.config, options.overrides)
    return run(config, live=live, cell=None if options.cell is None else read_cell(options.cell))


def read_cell(text: str) -> tuple[str, int]:
    """`grpo:3` as a run and a seed.

    Raises:
      ConfigError: it is something else.
    """
    name, _, seed = text.rpartition(":")
    if not name or not seed.isdecimal():
        raise ConfigError(f"--cell={text}: write RUN:SEED, for example grpo:3")
    return name, int(seed)


def quickstart(options: argparse.Namespace, *, live: bool) -> int:
    """`rlhf-jax quickstart [RUN_DIR]`."""
    from rlhf_jax.runs.quickstart import quickstart_config, quickstart_tree  # heavy

    if options.show_config:
        say(render(quickstart_tree(options.run_dir)).rstrip())
        return 0
    config = quickstart_config(options.run_dir, seeds=(options.seed,))
    say(
        f"{len(config.stages)} runs of a small model, three minutes on two idle CPU cores, "
        f"into {options.run_dir}"
    )
    run(config, live=live)
    from rlhf_jax.runs.answers import ask  # heavy

    show_answers(ask(config))
    return 0


def show_answers(found: Any) -> None:
    """What each model answers, a row per model."""
    rows = [
        [name, *(" ".join(map(_answer, answers)) for answers in table)]
        for name, table in found.models.items()
    ]
    number = len(next(iter(found.models.values()))[0])
    print_table(
        f"{number} sampled answers of each model to held-out prompts, wrong ones in [brackets]",
        ["", *found.prompts],
        rows,
    )


def _answer(answer: tuple[str, bool | None]) -> str:
    text, right = answer
    return text if right or right is None else f"[{text}]"


def run(config: CompareConfig, *, live: bool, cell: tuple[str, int] | None = None) -> int:
    """Compares and prints the table."""
    from rlhf_jax import runs  # heavy, and not needed for a mistake in the configuration

    found = runs.compare(config, progress=live, cell=cell)
    show(found)
    return 0


def show(found: Any) -> None:
    """The table, a column per run; where the files are."""
    names = [f"{row[0]} (best)" if row[0] == found.best else row[0] for row in found.rows]
    figures = zip(found.columns[1:], *(row[1:] for row in found.rows), strict=True)
    metric = found.metric.removeprefix("accuracy/")
    title = (
        f"held-out accuracy ({metric}) and what it took; the dashed line of the picture is "
        f"{found.target:.3f}"
    )
    print_table(title, ["", *names], [list(line) for line in figures], numbers=len(names))
    budgets = zip(found.budgets.columns[1:], *(row[1:] for row in found.budgets.rows), strict=True)
    title = "held-out accuracy at equal budgets (of each run its last measurement within it)"
    print_table(title, ["", *names], [list(line) for line in budgets], numbers=len(names))
    if found.paired.rows:
        title = "difference to the best after training, " + (
            "of one seed: another may give another, and 3 give an interval"
            if found.num_seeds == 1
            else "seed by seed"
        )
        print_table(
            title, found.paired.columns, found.paired.rows, numbers=len(found.paired.columns) - 1
        )
    total = sum(found.seconds.values())
    say(
        f"{total:.0f} s: "
        + ", ".join(f"{stage} {value:.0f} s" for stage, value in found.seconds.items())
    )
    say(f"cells, and the command of each: {pathlib.Path(found.folder) / 'results.json'}")
    say(f"table and every figure: {pathlib.Path(found.folder) / 'compare.md'} and compare.json")
    say(f"picture of the learning curves: {pathlib.Path(found.folder) / 'compare.png'}")
