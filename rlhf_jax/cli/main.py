"""Entry point of `rlhf-jax`. Nothing heavy is imported before the arguments are understood."""

import argparse
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from rlhf_jax.cli.output import complain

EXIT_CODES = """\
exit codes:
  0    done
  1    unexpected error (a bug, or the system: disk full, out of memory)
  2    mistake on the command line or in the configuration
  3    the data cannot be used
  4    the model or the checkpoint cannot be read or written
  5    training failed: the loss or the gradients stay non-finite, or the rewards do not grade
  130  interrupted by Ctrl-C or SIGTERM after saving; the same command goes on from there
"""
ERROR_CODES = {
    "rlhf_jax.config.errors.ConfigError": 2,
    "rlhf_jax.io.run_folder.RunFolderError": 2,
    "rlhf_jax.io.sinks.MetricsError": 2,
    "rlhf_jax.data.errors.DataError": 3,
    "rlhf_jax.models.reader.ModelConfigError": 4,
    "rlhf_jax.models.checkpoint.ModelLoadError": 4,
    "rlhf_jax.models.rope.RopeError": 4,
    "rlhf_jax.io.errors.CheckpointError": 4,
    "rlhf_jax.errors.TrainingError": 5,
    "rlhf_jax.rewards.errors.RewardError": 5,
    "rlhf_jax.rewards.errors.RewardProcessError": 5,
}
"""Exception class -> exit code. By name, so that a mistake in the configuration does not wait for
imports."""

TOP = """\
examples:
  rlhf-jax quickstart                                   SFT, DPO, PPO, GRPO and DAPO of a small model, compared
  rlhf-jax train configs/sft_hh.yaml data.path=pairs.jsonl
  rlhf-jax train configs/dpo_hh.yaml data.path=pairs.jsonl model.path=runs/sft_hh/export algorithm.beta=0.2
  rlhf-jax data configs/sft_hh.yaml data.path=chats.jsonl --rows 5
  rlhf-jax evaluate runs/dpo_hh
  rlhf-jax export runs/dpo_hh aligned-model --best
  rlhf-jax generate aligned-model "Once upon a time"
  rlhf-jax algorithms dpo

"""
TRAIN = """\
examples:
  rlhf-jax train configs/dpo_hh.yaml data.path=pairs.jsonl
  rlhf-jax train configs/dpo_hh.yaml optimizer.learning_rate=1e-5 training.max_steps=200 run_dir=runs/try1
  rlhf-jax train configs/sft_hh.yaml 'mesh={data: 2, fsdp: 4}' 'optimizer.decay_exclude=[norm/]' tokenizer=byte

An override is section.key=value: a YAML scalar, or flow syntax in brackets or braces; null unsets; the last one wins.
Starting the same command again goes on from the newest checkpoint in run_dir (see checkpoint.resume).
A configuration is code: the reward functions that it names are imported and called. Run only those that you trust.

"""
EVALUATE = """\
examples:
  rlhf-jax evaluate runs/dpo_hh                                             the newest checkpoint of a run
  rlhf-jax evaluate runs/dpo_hh --best data.eval_path=test.jsonl data.eval_fraction=0
  rlhf-jax evaluate configs/dpo_hh.yaml data.path=pairs.jsonl model.path=aligned-model model.reference=runs/sft_hh/export
  rlhf-jax evaluate runs/grpo --trust-rewards                               a run whose rewards are functions of a file

A configuration is code: the reward functions that it names are imported and called. Those of your own configuration you
have chosen; those of a run folder, which may have come from somebody else, run with --trust-rewards only.

"""
DATA = """\
examples:
  rlhf-jax data configs/sft_hh.yaml data.path=chats.jsonl
  rlhf-jax data configs/grpo_gsm8k.yaml --rows 5 data.max_examples=1000

Trained tokens are green, or in \u27e6brackets\u27e7 where the output is no terminal. Nothing is written.

"""
EXPORT = """\
examples:
  rlhf-jax export runs/dpo_hh aligned-model                     the newest checkpoint
  rlhf-jax export runs/dpo_hh aligned-model --best              the best one by checkpoint.best_metric
  rlhf-jax export runs/dpo_hh/checkpoints/200 aligned-model

The folder holds weights, config.json and tokenizer; transformers and vLLM load it.

"""
GENERATE = """\
examples:
  rlhf-jax generate runs/sft_hh "Once upon a time" --temperature 0.7 -n 3
  rlhf-jax generate aligned-model --chat "What is 17 + 25?" --greedy
  rlhf-jax generate aligned-model --file prompts.jsonl --max-new-tokens 256 --output completions.jsonl

The model is a Hugging Face folder, a hub id, or the run folder of `rlhf-jax train` (its export). A .txt file holds a prompt per
line; .jsonl, .json, .csv and .parquet files hold them in a column `prompt` (text or messages) or `messages`.

"""
MODELS = "examples:\n  rlhf-jax models\n\n"
ALGORITHMS = "examples:\n  rlhf-jax algorithms          all of them\n  rlhf-jax algorithms dpo      the options of one\n\n"
COMPARE = """\
examples:
  rlhf-jax compare configs/compare_arithmetic.yaml
  rlhf-jax compare configs/compare_arithmetic.yaml run_dir=runs/three 'seeds=[0, 1, 2]'

Every run starts from the same model and is measured on the same held-out prompts. The run folder then holds compare.md,
compare.json and compare.png. Starting the same command again goes on where it stopped.

"""
QUICKSTART = """\
examples:
  rlhf-jax quickstart
  rlhf-jax quickstart runs/first --seed 1
  rlhf-jax quickstart --show-config > my_comparison.yaml

A small model with random weights learns sums imperfectly (SFT); then DPO, PPO, GRPO and DAPO each go on from there. The same as
rlhf-jax compare configs/compare_arithmetic.yaml.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code (see `rlhf-jax --help`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_keys = arguments[:1] == ["train"] and not {"-h", "--help"}.isdisjoint(arguments)
    keys = importlib.import_module("rlhf_jax.cli.keys").describe_keys() if wants_keys else ""
    parser = make_parser(keys)
    try:
        options, unknown = parser.parse_known_args(arguments)
        # argparse takes no overrides behind an option
        if options.command in ("train", "evaluate", "compare", "data"):
            options.overrides += [argument for argument in unknown if _is_override(argument)]
            unknown = [argument for argument in unknown if not _is_override(argument)]
        if options.command == "generate":  # nor prompts
            options.prompts += [argument for argument in unknown if not argument.startswith("-")]
            unknown = [argument for argument in unknown if argument.startswith("-")]
        if unknown:
            _usage_error(_describe_unknown(unknown))
        if options.command is None:
            _usage_error(
                "no command: train, evaluate, compare, data, export, generate, models, algorithms, "
                "quickstart"
            )
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return importlib.import_module("rlhf_jax.cli.commands").COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # every error of a user ends here, as one line
        return _report(error, debug=options.debug)


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is the user's to mend; None for any other error.

    A `ValueError` raised by the library itself, rather than below it, is a refused value: 2 unless
    its class says more.
    """
    for cls in type(error).__mro__:
        code = ERROR_CODES.get(f"{cls.__module__}.{cls.__qualname__}")
        if code is not None:
            return code
    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, ValueError) and frames and frames[-1].startswith("rlhf_jax."):
        return (
            3
            if frames[-1].startswith("rlhf_jax.data")
            else 4
            if frames[-1].startswith("rlhf_jax.models")
            else 2
        )
    return 1 if isinstance(error, OSError) else None


def _report(error: Exception, *, debug: bool) -> int:
    code = exit_code(error)
    if debug or code is None:
        traceback.print_exception(error)
    if code is not None:
        complain(str(error))
    return 1 if code is None else code


def make_parser(keys: str = "") -> argparse.ArgumentParser:
    """The whole command line; `keys` describes all configuration keys, for `train --help` (it takes
    imports to know them)."""
    parser = _make_parser(
        prog="rlhf-jax",
        description="Align language models in JAX: SFT, DPO, PPO, GRPO, DAPO.",
        epilog=TOP + EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"rlhf-jax {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_make_parser)  # type: ignore[call-overload]

    train = _add(commands, "train", "train as a configuration file says", TRAIN + keys)
    train.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/dpo_hh.yaml")
    train.add_argument("overrides", metavar="section.key=value", nargs="*", help="changes to it")
    train.add_argument(
        "--no-progress", action="store_true", help="plain lines instead of the live display"
    )

    evaluate = _add(commands, "evaluate", "measure a model on the held-out split", EVALUATE)
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
    _add_choice_of_step(evaluate)

    compare = _add(
        commands, "compare", "train several algorithms from one model, and compare them", COMPARE
    )
    compare.add_argument(
        "config", metavar="CONFIG", help="YAML file, such as configs/compare_arithmetic.yaml"
    )
    compare.add_argument("overrides", metavar="section.key=value", nargs="*", help="changes to it")
    compare.add_argument(
        "--no-progress", action="store_true", help="plain lines instead of the live display"
    )

    data = _add(
        commands,
        "data",
        "show rows as they are trained on, their lengths, and what is left out",
        DATA,
    )
    data.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/sft_hh.yaml")
    data.add_argument("overrides", metavar="section.key=value", nargs="*", help="changes to it")
    data.add_argument("--rows", type=int, default=3, metavar="N", help="rows shown (%(default)s)")
    data.add_argument(
        "--split",
        choices=("train", "eval"),
        default="train",
        help="training or held-out rows (%(default)s)",
    )

    export = _add(commands, "export", "write a checkpoint as a Hugging Face folder", EXPORT)
    export.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="run folder, or one checkpoint in it"
    )
    export.add_argument(
        "folder", metavar="FOLDER", help="where to write; must not exist or be empty"
    )
    _add_choice_of_step(export)

    _add_generate(commands)
    _add(commands, "models", "list supported model families", MODELS)
    algorithms = _add(commands, "algorithms", "list algorithms, or the options of one", ALGORITHMS)
    algorithms.add_argument("name", metavar="NAME", nargs="?", help="an algorithm")

    quickstart = _add(
        commands,
        "quickstart",
        "SFT, DPO, PPO, GRPO and DAPO of a small model, compared",
        QUICKSTART,
    )
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
    quickstart.add_argument(
        "--no-progress", action="store_true", help="plain lines instead of the live display"
    )
    return parser


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    generate = _add(commands, "generate", "complete prompts with a model", GENERATE)
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
        help="longest row, prompt and completion, that longrope and dynamic rotary scalings are set for "
        "(default: the model's longest; a run's is its model.context)",
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
        "--output", metavar="FILE", help="write a JSON line per completion instead of printing them"
    )


def _make_parser(**options: object) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
    )  # type: ignore[arg-type]
    parser.error = _usage_error  # type: ignore[method-assign]
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=examples + EXIT_CODES
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_choice_of_step(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--step", type=int, help="checkpoint of this step (default: the newest)")
    choice.add_argument(
        "--best", action="store_true", help="the best checkpoint by checkpoint.best_metric"
    )


def _usage_error(message: str) -> NoReturn:
    complain(f"{message} (see rlhf-jax --help)")
    raise SystemExit(2)


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _describe_unknown(unknown: list[str]) -> str:
    first = unknown[0]
    if first.startswith("--") and "=" in first:
        return f"unknown option {first!r}; an override has no dashes: {first.lstrip('-')}"
    return f"unknown argument {first!r}"


def _version() -> str:
    try:
        return importlib.metadata.version("rlhf_jax")
    except importlib.metadata.PackageNotFoundError:
        return importlib.import_module("rlhf_jax").__version__
