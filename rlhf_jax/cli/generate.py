"""`rlhf-jax generate`: completions of prompts from the command line or a file."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from rlhf_jax.cli.output import say
from rlhf_jax.config import ConfigError
from rlhf_jax.rewards.answers import content_of

CHAT_HINT = (
    "the model ended at once: if it is one that chats, --chat puts its chat template around each "
    "prompt"
)


def generate(options: argparse.Namespace) -> int:
    """`rlhf-jax generate MODEL_OR_RUN [PROMPT ...]`."""
    check_options(options)
    from rlhf_jax.rollout import SamplingParams  # heavy, and not needed for a mistake
    from rlhf_jax.runs.complete import encode_prompts, sample_prompts
    from rlhf_jax.runs.load import LoadedModel, find_model

    place = find_model(options.model, options.step)
    tokenizer = place.tokenizer().with_stops(options.stop)
    examples = read_prompts(options)
    encoded = encode_prompts(examples, tokenizer, options.file or "the command line")
    check_context(options, max(len(tokens) for tokens in encoded))
    found = sample_prompts(
        LoadedModel(*place.model(context=options.context), tokenizer),
        encoded,
        n=options.num_samples,
        max_new_tokens=options.max_new_tokens,
        sampling=SamplingParams(
            0.0 if options.greedy else options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
        ),
        seed=options.seed,
    )
    completions = [
        {
            "prompt": examples[row // options.num_samples].prompt,
            "completion": text,
            "tokens": len(found.tokens[row]),
            "truncated": bool(found.truncated[row]),
            "logp": float(found.logps[row]),
        }
        for row, text in enumerate(found.texts)
    ]
    if options.output is None:
        show(completions, options.num_samples)
        empty = any(
            not completion["completion"] and not completion["truncated"]
            for completion in completions
        )
        if empty and isinstance(examples[0].prompt, str):
            print(CHAT_HINT, file=sys.stderr)
    else:
        lines = [json.dumps(completion, ensure_ascii=False) + "\n" for completion in completions]
        pathlib.Path(options.output).write_text("".join(lines), encoding="utf-8")
        say(
            f"{len(completions)} completions, {found.stats.tokens} tokens, "
            f"{found.stats.seconds:.1f} s: {options.output}"
        )
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuses what can be refused before anything heavy is imported."""
    if options.prompts and options.file:
        raise ConfigError("give prompts on the command line or with --file, not both")
    if not options.prompts and not options.file:
        raise ConfigError("no prompts: give some behind the model, or --file")
    if "" in options.stop:
        raise ConfigError(
            "--stop '' would end every completion at once: write at least one character"
        )
    if "" in options.prompts:
        raise ConfigError("an empty prompt: write at least one character")
    for name in ("max_new_tokens", "num_samples", "context"):
        value = options.__dict__[name]
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if (options.greedy or options.temperature == 0) and options.num_samples > 1:
        raise ConfigError(
            f"--num-samples {options.num_samples} greedy completions of a prompt are all the same: "
            "leave it out"
        )
    if options.output is not None and not pathlib.Path(options.output).absolute().parent.is_dir():
        raise ConfigError(f"--output {options.output}: its folder does not exist")


def check_context(options: argparse.Namespace, longest: int) -> None:
    """Refuses a context that prompt and completion do not fit into."""
    needed = longest + options.max_new_tokens
    if options.context is not None and options.context < needed:
        raise ConfigError(
            f"--context {options.context} is less than the longest prompt of {longest} tokens with "
            f"--max-new-tokens {options.max_new_tokens}: give at least {needed}"
        )


def read_prompts(options: argparse.Namespace) -> Sequence[Any]:
    """Prompts of the command line or of a file."""
    from rlhf_jax.data import DataConfig, load_examples  # heavy
    from rlhf_jax.runs.complete import examples_of

    if options.file is None or options.file.endswith(".txt"):
        texts = options.prompts if options.file is None else read_lines(options.file)
        return examples_of(texts, chat=options.chat)
    config = DataConfig(path=options.file, conversational=options.chat)
    return load_examples(config, kind="prompts").rows


def read_lines(path: str) -> list[str]:
    """The lines of a text file that are not empty."""
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"--file {path}: no such file")
    lines = [
        line for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not lines:
        raise ConfigError(f"--file {path} holds no prompts")
    return lines


def show(completions: list[dict[str, Any]], num_samples: int) -> None:
    """Prints completions: bare when there is one, else under a line naming prompt and sample."""
    for number, completion in enumerate(completions):
        if len(completions) > 1:
            sample = f", sample {number % num_samples + 1}" if num_samples > 1 else ""
            say(f"--- prompt {number // num_samples + 1}{sample}: {title(completion['prompt'])}")
        note = " [cut at --max-new-tokens]" if completion["truncated"] else ""
        if not completion["completion"] and not completion["truncated"]:
            note = "[the model ended at once]"
        say(completion["completion"] + note)


def title(content: Any) -> str:
    """The start of a prompt, or of the last message of a conversation, in one line."""
    text = " ".join(content_of(content).split())
    return text if len(text) <= 80 else text[:77] + "..."
