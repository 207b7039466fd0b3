"""`rlhf-jax data`: rows of a configuration as the model sees them, and what became of all."""

import argparse
import pathlib
import sys
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlhf_jax.cli.output import say
from rlhf_jax.cloud import Place, fetched, place
from rlhf_jax.config import Config, ConfigError

if TYPE_CHECKING:
    from rlhf_jax.data import FastTokenizer

OPENED = "\u27e6"
CLOSED = "\u27e7"
"""Around trained tokens where there is no colour."""
_BARS = 40
_BINS = 10
_SHOWN = 200  # characters of a column's value


class Part(NamedTuple):
    """Some tokens in a row, as text."""

    text: str
    trained: bool


def data(options: argparse.Namespace) -> int:
    """`rlhf-jax data CONFIG [section.key=value ...]`."""
    if options.rows < 0:
        raise ConfigError(f"--rows {options.rows} must not be negative")
    from rlhf_jax.cli.commands import show_logs  # commands imports this module
    from rlhf_jax.config import load_config

    config = load_config(options.config, options.overrides)
    show_logs(live=False)
    tokenizer = read_tokenizer(config)
    ends = [*(tokenizer.decode([token]) for token in tokenizer.stop_ids), *tokenizer.stop_strings]
    stops = ", ".join(repr(text) for text in ends)
    say(f"{options.config}: {config.data.path} ({options.split}); an answer ends with {stops}")
    if config.algorithm.data == "prompts":
        show_prompts(config, tokenizer, options)
    else:
        show_rows(config, tokenizer, options)
    return 0


def read_tokenizer(config: Config) -> "FastTokenizer":
    """The tokenizer that training would use, without writing into the run's folder."""
    from rlhf_jax.runs.parts import make_tokenizer  # heavy

    kept = _kept_in(config)
    if kept is not None:
        return make_tokenizer(config, kept, config.algorithm.data)
    with tempfile.TemporaryDirectory() as folder:
        return make_tokenizer(config, pathlib.Path(folder), config.algorithm.data)


def _kept_in(config: Config) -> pathlib.Path | None:
    """The run folder whose tokenizer training would take; None: a new one.

    It would make a new one where there is no checkpoint yet, so what a start left that failed
    before is of no account.
    """
    from rlhf_jax.io.stored import complete_steps  # heavy
    from rlhf_jax.loops.resume import touches
    from rlhf_jax.runs.source import TOKENIZER, parse_start_from

    def kept_in(run_dir: Place, *decisive: str) -> pathlib.Path | None:
        if not (run_dir / "tokenizer").is_dir() or not (run_dir / "config.yaml").is_file():
            return None
        changes = config.differences_from(fetched(run_dir / "config.yaml"))
        return None if touches(changes, *decisive) else fetched(run_dir / "tokenizer").parent

    run_dir = place(config.run_dir, "run_dir")
    other = config.checkpoint.start_from
    if complete_steps(run_dir / "checkpoints"):
        return kept_in(run_dir, *TOKENIZER, "data", "rollout.stop")
    if other is None:
        return None
    return kept_in(parse_start_from(other)[0], *TOKENIZER)


def show_rows(config: Config, tokenizer: "FastTokenizer", options: argparse.Namespace) -> None:
    """Rows with answers: what is trained on is marked."""
    from rlhf_jax.data.kinds import ROWS  # heavy
    from rlhf_jax.data.tokenize import data_fingerprint, tokenize_split
    from rlhf_jax.data.unpaired import balance

    kind = config.algorithm.data
    fingerprint = data_fingerprint(config.data, tokenizer, kind, options.split)
    result = tokenize_split(
        config.data,
        tokenizer,
        kind=kind,
        split=options.split,
        cache_dir=None,
        fingerprint=fingerprint,
    )
    lengths = np.diff(result.offsets)
    trained_lengths = np.add.reduceat(np.asarray(result.trained), result.offsets[:-1], dtype=int)
    if kind == "unpaired":  # an unrelated answer is measured, and not trained on
        lengths = lengths[::2]
        trained_lengths = trained_lengths[::2]
    count = len(result.margins)
    for number in range(min(options.rows, count)):
        for side, name in sides(kind, bool(result.labels[number])):
            row = ROWS[kind] * number + side
            ids, trained = (
                array[result.offsets[row] : result.offsets[row + 1]]
                for array in (result.tokens, result.trained)
            )
            title = f"row {number + 1} {name}".rstrip()
            say(f"\n--- {title}: {len(ids)} tokens, {int(trained.sum())} trained")
            show_parts(parts_of(ids.tolist(), trained.tolist(), tokenizer))
    show_histogram("tokens a row", lengths, config.data.max_length)
    conversations, unrolled = result.unrolled
    tokens = int(lengths.sum())
    facts = [
        ("rows", f"{count:,}"),
        ("tokens", f"{tokens:,}, {share(int(trained_lengths.sum()), tokens)} trained"),
        (f"shortened to data.max_length {config.data.max_length}", of(result.shortened, count)),
        ("unrolled", f"{conversations:,} conversations into {unrolled:,} rows"),
    ]
    if kind == "unpaired":
        facts.append(("labels", balance(result.labels)))
    show_facts([*facts, *left_out(result.skipped, count), *noted(result.notes)])


def sides(kind: str, label: bool) -> list[tuple[int, str]]:
    """Which rows of an example are shown, and what each is called."""
    if kind == "pairs":
        return [(0, "chosen"), (1, "rejected")]
    if kind == "unpaired":
        return [(0, "desirable" if label else "undesirable")]
    return [(0, "")]


def show_prompts(config: Config, tokenizer: "FastTokenizer", options: argparse.Namespace) -> None:
    """Prompts as the sampler gets them, with the columns that rewards get."""
    from rlhf_jax.data import make_prompt_loader  # heavy

    limit = config.rollout.max_prompt_len
    loader = make_prompt_loader(
        config.data, tokenizer, max_prompt_len=limit, seed=config.seed, split=options.split
    )
    everything = loader.take(np.arange(loader.num_examples))
    for row in range(min(options.rows, loader.num_examples)):
        ids = everything.tokens[row, : everything.lengths[row]].tolist()
        say(f"\n--- prompt {row + 1}: {len(ids)} tokens")
        show_parts(parts_of(ids, [False] * len(ids), tokenizer))
        for name, values in everything.columns.items():
            say(f"{name}: {printable(repr(values[row]))[:_SHOWN]}")
    show_histogram("tokens a prompt", everything.lengths, limit)
    facts = [
        ("prompts", f"{loader.num_examples:,}"),
        (f"shortened to rollout.max_prompt_len {limit}", of(loader.shortened, loader.num_examples)),
    ]
    show_facts([*facts, *left_out(loader.skipped, loader.num_examples), *noted(loader.notes)])


def parts_of(ids: Sequence[int], trained: Sequence[bool], tokenizer: "FastTokenizer") -> list[Part]:
    """Tokens that are trained on alike, together."""
    parts = []
    start = 0
    for position in range(1, len(ids) + 1):
        if position == len(ids) or trained[position] != trained[start]:
            parts.append(Part(tokenizer.decode(list(ids[start:position])), trained[start]))
            start = position
    return parts


def show_parts(parts: Sequence[Part]) -> None:
    """Prints a row: trained parts in colour on a terminal, in brackets elsewhere."""
    if not sys.stdout.isatty():
        say(
            "".join(
                f"{OPENED}{printable(part.text)}{CLOSED}" if part.trained else printable(part.text)
                for part in parts
            )
        )
        return
    from rich.console import Console  # heavy
    from rich.text import Text

    text = Text()
    for part in parts:
        text.append(printable(part.text), style="bold green" if part.trained else "")
    Console(file=sys.stdout).print(text, soft_wrap=True)


def printable(text: str) -> str:
    r"""The text with control characters spelled out; a line break as `\n` and a new line."""
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character == "\n":
        return "\\n\n"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    try:
        character.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal that cannot show it
        return character.encode("unicode_escape").decode("ascii")
    return character


def show_histogram(title: str, lengths: np.ndarray, limit: int) -> None:
    """Prints how many rows have which length."""
    counts, edges = np.histogram(
        lengths, bins=min(_BINS, limit), range=(0, max(limit, int(lengths.max())))
    )
    say(f"\n{title} (median {np.median(lengths):.0f}, longest {lengths.max()})")
    for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
        bar = "#" * -(-_BARS * count // max(1, int(counts.max())))
        say(f"{low:7.0f} - {high:<7.0f} {bar:{_BARS}} {count:,}")


def share(part: int, whole: int) -> str:
    """A part in per cent."""
    return f"{100 * part / max(whole, 1):.1f} %"


def of(part: int, whole: int) -> str:
    """A part as count and share."""
    return f"{part:,} ({share(part, whole)})"


def left_out(skipped: Mapping[str, int], kept: int) -> list[tuple[str, str]]:
    """One fact for every reason rows were left out for, of all that were read."""
    total = kept + sum(skipped.values())
    facts = [(f"left out: {reason}", of(count, total)) for reason, count in sorted(skipped.items())]
    return facts or [("left out", "none")]


def noted(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One fact for every kind of note."""
    return [
        (f"{kind} {printable(note.detail)}".rstrip(), f"{note.times:,}, first {note.where}")
        for kind, note in notes.items()
    ]


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Prints name and value in two columns."""
    width = max(len(name) for name, _ in facts)
    say("")
    for name, value in facts:
        say(f"{name:{width}}  {printable(value)}")
