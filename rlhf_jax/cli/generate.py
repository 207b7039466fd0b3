"""`rlhf-jax generate`: completions of prompts from the command line or a file."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.cli.output import say
from rlhf_jax.cloud import place
from rlhf_jax.config import ConfigError
from rlhf_jax.rewards.answers import content_of

SLOTS = 64
"""Completions that decode at the same time."""


CHAT_HINT = (
    "the model ended at once: if it is one that chats, --chat puts its chat template around each "
    "prompt"
)


class Prompt(NamedTuple):
    """What is shown of a prompt, and its tokens."""

    content: Any
    tokens: list[int]


def generate(options: argparse.Namespace) -> int:
    """`rlhf-jax generate MODEL_OR_RUN [PROMPT ...]`."""
    check_options(options)
    import jax  # heavy, and not needed for a mistake on the command line

    from rlhf_jax.data import load_tokenizer
    from rlhf_jax.models import load_pretrained, local_folder
    from rlhf_jax.rollout import SamplingParams, make_generator
    from rlhf_jax.runs.compilation import keep_programs

    folder = local_folder(model_path(options.model))
    tokenizer = load_tokenizer(folder).with_stops(options.stop)
    prompts = read_prompts(options, tokenizer)
    check_context(options, max(len(prompt.tokens) for prompt in prompts))
    model, params = load_pretrained(folder, context=options.context)
    lengths = np.array([len(prompt.tokens) for prompt in prompts], np.int32)
    rows = np.zeros((len(prompts), lengths.max()), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt.tokens)] = prompt.tokens
    generator = make_generator(
        model,
        mesh=None,
        max_new_tokens=options.max_new_tokens,
        eos_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        group_size=options.num_samples,
        prompt_buckets=(rows.shape[1],),
        slots=SLOTS,
        missing_ids=tokenizer.missing_ids(model.config.vocab_size),
        string_end=tokenizer.string_end(),
    )
    temperature = 0.0 if options.greedy else options.temperature
    sampling = SamplingParams(
        temperature, top_p=options.top_p, top_k=options.top_k, min_p=options.min_p
    )
    with keep_programs("auto"):
        key = jax.random.key(options.seed)
        rollout, stats = generator(params, rows, lengths, key, sampling)
    completions = [
        {
            "prompt": prompts[row // options.num_samples].content,
            "completion": tokenizer.decode_answer(
                rollout.tokens[row][rollout.completion_mask[row]].tolist()
            ),
            "tokens": int(rollout.completion_mask[row].sum()),
            "truncated": bool(rollout.truncated[row]),
            "logp": float(rollout.logps[row].sum()),
        }
        for row in range(len(rollout.tokens))
    ]
    if options.output is None:
        show(completions, options.num_samples)
        empty = any(
            not completion["completion"] and not completion["truncated"]
            for completion in completions
        )
        if empty and isinstance(prompts[0].content, str):
            print(CHAT_HINT, file=sys.stderr)
    else:
        lines = [json.dumps(completion, ensure_ascii=False) + "\n" for completion in completions]
        pathlib.Path(options.output).write_text("".join(lines), encoding="utf-8")
        say(
            f"{len(completions)} completions, {stats.tokens} tokens, {stats.seconds:.1f} s: "
            f"{options.output}"
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


def model_path(target: str) -> str:
    """The model folder of a run, or the target itself: a model folder or a hub id."""
    folder = place(target, "MODEL")
    if (folder / "config.json").is_file() or not (folder / "config.yaml").is_file():
        return target
    if not (folder / "export" / "config.json").is_file():
        raise ConfigError(
            f"{target} is a run without an export yet: rlhf-jax export {target} FOLDER, then "
            "generate FOLDER"
        )
    return str(folder / "export")


def read_prompts(options: argparse.Namespace, tokenizer: Any) -> list[Prompt]:
    """Prompts with their tokens, made as training makes them."""
    from rlhf_jax.data import BadRow, DataConfig, DataError, PromptExample, load_examples  # heavy
    from rlhf_jax.data.encode import encode_rows, render_prompt
    from rlhf_jax.data.marks import message_notes
    from rlhf_jax.data.notes import count_notes, warn
    from rlhf_jax.data.wrap import wrap_examples

    config = DataConfig(path=options.file or "command line", conversational=options.chat)
    if options.file is None or options.file.endswith(".txt"):
        texts = options.prompts if options.file is None else read_lines(options.file)
        plain = [
            PromptExample(text, {}, f"prompt {number}") for number, text in enumerate(texts, 1)
        ]
        examples: Sequence[Any] = wrap_examples(list(plain), config)
    else:
        examples = load_examples(config, kind="prompts").rows
    rendered = []
    for example in examples:
        try:
            rendered.append(render_prompt(example, tokenizer))
        except BadRow as error:
            raise DataError(f"{example.where}: {error.detail}") from None
    noted = [
        (example.where, note) for example in examples for note in message_notes(example, tokenizer)
    ]
    warn(count_notes(noted), options.file or "the command line")
    encoded = [tokens for tokens, _ in encode_rows(rendered, tokenizer, config)]
    for example, tokens in zip(examples, encoded, strict=True):
        if not tokens:
            raise DataError(f"{example.where}: the prompt has no tokens")
    return [
        Prompt(example.prompt, tokens) for example, tokens in zip(examples, encoded, strict=True)
    ]


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
