"""The commands and options of `rlhf-jax`. Nothing heavy is imported to know them."""

import argparse
import importlib
import importlib.metadata
import pathlib
from collections.abc import Mapping
from types import MappingProxyType

from rlhf_jax.cli import epilogs
from rlhf_jax.cli.arguments import (
    Commands,
    add,
    add_choice_of_step,
    add_config,
    add_no_progress,
    make_empty,
)

NO_KEYS: Mapping[str, str] = MappingProxyType({})


def make_parser(keys: Mapping[str, str] = NO_KEYS) -> argparse.ArgumentParser:
    """The whole command line.

    Args:
        keys: command -> all its configuration keys described, for its help (it takes imports to
          know them).
    """
    parser = make_empty(
        prog="rlhf-jax",
        description="Align language models in JAX: SFT, DPO, KTO, PPO, GRPO, DAPO.",
        epilog=epilogs.TOP + epilogs.EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"rlhf-jax {_version()}")
    commands = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        parser_class=make_empty,  # type: ignore[call-overload]
    )

    _add_train(commands, keys.get("train", ""))
    _add_evaluate(commands)
    _add_compare(commands)
    _add_claims(commands, keys.get("claims", ""))
    _add_data(commands)
    _add_export(commands)
    _add_generate(commands)
    _add_launch(commands)
    add(commands, "models", "list supported model families", epilogs.MODELS)
    text = "list algorithms, or the options of one"
    algorithms = add(commands, "algorithms", text, epilogs.ALGORITHMS)
    algorithms.add_argument("name", metavar="NAME", nargs="?", help="an algorithm")
    _add_bench(commands)
    _add_plan(commands)
    _add_quickstart(commands)
    _add_report(commands)
    _add_show(commands)
    metrics = add(commands, "metrics", "say what every metric means", epilogs.METRICS)
    metrics.add_argument("name", metavar="NAME", nargs="?", help="one metric")
    return parser


def _add_train(commands: Commands, keys: str) -> None:
    train = add(commands, "train", "train as a configuration file says", epilogs.TRAIN + keys)
    add_config(train, "configs/dpo_hh.yaml")
    add_no_progress(train)


def _add_evaluate(commands: Commands) -> None:
    evaluate = add(commands, "evaluate", "measure a model on the held-out split", epilogs.EVALUATE)
    evaluate.add_argument(
        "target",
        metavar="CONFIG_OR_RUN",
        help="YAML file (evaluates its model.path), or a run folder or checkpoint",
    )
    evaluate.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="changes to the configuration"
    )
    evaluate.add_argument(
        "--trust-rewards",
        action="store_true",
        help="run reward functions that a run folder names and that are not built in",
    )
    add_choice_of_step(evaluate)


def _add_compare(commands: Commands) -> None:
    text = "train several algorithms from one model, and compare them"
    compare = add(commands, "compare", text, epilogs.COMPARE)
    add_config(compare, "configs/compare_arithmetic.yaml")
    compare.add_argument(
        "--cell", metavar="RUN:SEED", help="make this run of this seed only, and what it needs"
    )
    add_no_progress(compare)


def _add_claims(commands: Commands, keys: str) -> None:
    text = "say what comparisons and memory say about claims: claimed, measured, interval, verdict"
    claims = add(commands, "claims", text, epilogs.CLAIMS + keys)
    add_config(claims, "configs/evidence/claims.yaml")
    claims.add_argument(
        "--output",
        metavar="DIR",
        default="runs/claims",
        help="folder for claims.md and claims.json (%(default)s)",
    )


def _add_data(commands: Commands) -> None:
    text = "show rows as they are trained on, their lengths, and what is left out"
    data = add(commands, "data", text, epilogs.DATA)
    add_config(data, "configs/sft_hh.yaml")
    data.add_argument("--rows", type=int, default=3, metavar="N", help="rows shown (%(default)s)")
    data.add_argument(
        "--split",
        choices=("train", "eval"),
        default="train",
        help="training or held-out rows (%(default)s)",
    )


def _add_export(commands: Commands) -> None:
    export = add(commands, "export", "write a checkpoint as a Hugging Face folder", epilogs.EXPORT)
    export.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="run folder, or one checkpoint in it"
    )
    export.add_argument(
        "folder", metavar="FOLDER", help="where to write; must not exist or be empty"
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: as they were trained)",
    )
    add_choice_of_step(export)


def _add_bench(commands: Commands) -> None:
    text = "measure a run's programs against what the machine can do, or against PyTorch"
    bench = add(commands, "bench", text, epilogs.BENCH)
    bench.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="YAML file, such as configs/dpo_hh.yaml; with --suite a comparison",
    )
    bench.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        help="changes to it; with --suite further comparisons",
    )
    bench.add_argument("--suite", choices=("cpu",), help="compare with PyTorch, side by side")
    bench.add_argument(
        "--curves", action="store_true", help="train here and with TRL, and compare every loss"
    )
    bench.add_argument("--output", metavar="FOLDER", help="of curves.json and curves.png")
    bench.add_argument(
        "--model", type=pathlib.Path, metavar="FOLDER", help="for --curves (default: a small one)"
    )
    bench.add_argument(
        "--rows",
        type=pathlib.Path,
        metavar="FILE",
        help="pairs for --curves (default: random words)",
    )
    bench.add_argument("--steps", type=int, metavar="N", help="of --curves (100)")
    bench.add_argument("--learning-rate", type=float, metavar="RATE", help="of --curves (1e-4)")
    bench.add_argument("--list", action="store_true", help="list the suites' comparisons")
    bench.add_argument(
        "--python", help="interpreter with torch, transformers and trl (default: this one)"
    )
    bench.add_argument(
        "--threads", type=int, default=2, help="of every side of a comparison (%(default)s)"
    )
    bench.add_argument(
        "--windows", type=int, metavar="N", help="timed windows of every side (its own default)"
    )
    bench.add_argument("--markdown", metavar="FILE", help="write a suite's table there too")
    bench.add_argument("--chart", metavar="FILE", help="and its picture, such as suite.png")
    bench.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="rounds that count (%(default)s)"
    )
    bench.add_argument(
        "--programs",
        default="",
        metavar="NAME[,NAME]",
        help="score, update, and online generate, prefill, decode, grade (default: all)",
    )
    bench.add_argument("--json", metavar="FILE", help="write every figure there too")


def _add_plan(commands: Commands) -> None:
    text = "say what a run would need and take on a machine that is not there"
    plan = add(commands, "plan", text, epilogs.PLAN)
    add_config(plan, "configs/grpo_gsm8k.yaml")
    plan.add_argument(
        "--device",
        required=True,
        metavar="NAME",
        help="v5e-16, v5p-64, v6e-64 (accelerator types), v5p:4x4x4, h100x8, h200x64, cpux8",
    )
    meshes = plan.add_mutually_exclusive_group()
    meshes.add_argument(
        "--mesh", metavar="AXIS=N[,AXIS=N]", help="in place of the configuration's mesh"
    )
    meshes.add_argument(
        "--search", action="store_true", help="compare a few meshes and plan for the best"
    )
    plan.add_argument("--output", metavar="FILE", help="write every figure as JSON too")


def _add_quickstart(commands: Commands) -> None:
    text = "SFT, DPO, PPO, GRPO and DAPO of a small model, compared"
    quickstart = add(commands, "quickstart", text, epilogs.QUICKSTART)
    quickstart.add_argument(
        "run_dir",
        metavar="RUN_DIR",
        nargs="?",
        default="runs/quickstart",
        help="a new folder (%(default)s)",
    )
    quickstart.add_argument(
        "--seed", type=int, default=0, help="of the compared runs (%(default)s)"
    )
    quickstart.add_argument(
        "--show-config", action="store_true", help="print the configuration instead of running it"
    )
    add_no_progress(quickstart)


def _add_report(commands: Commands) -> None:
    text = "draw runs as one HTML file: curves, completions, what differs"
    report = add(commands, "report", text, epilogs.REPORT)
    report.add_argument("runs", metavar="RUN", nargs="+", help="run folder, or a folder of runs")
    report.add_argument(
        "--output", metavar="FILE", default="report.html", help="where to write (%(default)s)"
    )


def _add_show(commands: Commands) -> None:
    text = "show runs, or their completions, in the terminal"
    show = add(commands, "show", text, epilogs.SHOW)
    show.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folder, or a folder of runs (lists them)"
    )
    show.add_argument("--completions", action="store_true", help="completions instead of metrics")
    show.add_argument("--step", type=int, metavar="N", help="completions of this step")
    show.add_argument(
        "--split", choices=("train", "eval"), help="of training or of evaluations (default: both)"
    )
    show.add_argument(
        "--sort", choices=("reward", "tokens", "step"), help="largest first (default: as generated)"
    )
    show.add_argument("--reverse", action="store_true", help="the other way round")
    verdict = show.add_mutually_exclusive_group()
    verdict.add_argument(
        "--wrong", dest="judged", action="store_const", const="wrong", help="wrong answers only"
    )
    verdict.add_argument(
        "--right", dest="judged", action="store_const", const="right", help="right answers only"
    )
    show.add_argument(
        "--limit", type=int, default=10, metavar="N", help="completions shown (%(default)s)"
    )


def _add_generate(commands: Commands) -> None:
    generate = add(commands, "generate", "complete prompts with a model", epilogs.GENERATE)
    generate.add_argument(
        "model", metavar="MODEL_OR_RUN", help="model folder, hub id, or run folder"
    )
    generate.add_argument("prompts", metavar="PROMPT", nargs="*", help="text to go on from")
    generate.add_argument(
        "--file", help="prompts from a file (.txt, .jsonl, .json, .csv, .parquet)"
    )
    generate.add_argument(
        "--chat", action="store_true", help="each prompt is a question: apply the chat template"
    )
    generate.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="tokens at most (%(default)s)"
    )
    generate.add_argument(
        "-n",
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="completions per prompt (%(default)s)",
    )
    generate.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="longest row, prompt and completion, that longrope and dynamic rotary scalings are "
        "set for (default: the model's longest; a run's is its model.context)",
    )
    choice = generate.add_mutually_exclusive_group()
    choice.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="of sampling; 0 is greedy (%(default)s)",
    )
    choice.add_argument("--greedy", action="store_true", help="always the likeliest token")
    generate.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="X",
        help="likeliest tokens up to this sum (1: all)",
    )
    generate.add_argument(
        "--top-k", type=int, default=0, metavar="N", help="this many likeliest tokens (0: all)"
    )
    generate.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="X",
        help="at least this share of the likeliest (0: all)",
    )
    generate.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end there too (may be given again)",
    )
    generate.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    generate.add_argument(
        "--step", type=int, help="checkpoint of this step (default: the run's export)"
    )
    generate.add_argument(
        "--output", metavar="FILE", help="write a JSON line per completion instead of printing them"
    )


def _add_launch(commands: Commands) -> None:
    launch = add(commands, "launch", "train with several processes of this machine", epilogs.LAUNCH)
    launch.add_argument(
        "--processes", type=int, required=True, metavar="N", help="processes to start"
    )
    launch.add_argument(
        "--devices-per-process",
        type=int,
        metavar="K",
        help="GPUs of each process, in order; on a CPU as many virtual devices (default: all)",
    )
    launch.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="R",
        help="times to go on from the newest checkpoint when a process is lost (%(default)s)",
    )
    launch.add_argument(
        "arguments", metavar="-- train CONFIG ...", nargs=argparse.REMAINDER, help="what to run"
    )


def _version() -> str:
    try:
        return importlib.metadata.version("rlhf_jax")
    except importlib.metadata.PackageNotFoundError:
        return importlib.import_module("rlhf_jax").__version__
