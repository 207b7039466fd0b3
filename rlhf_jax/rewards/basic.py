"""Rewards that cost microseconds and cannot hang. All have TRL's signature.

`format` alone takes a pattern of the user's, and patterns can take for ever: it runs in the pool.
"""

import re
from collections.abc import Mapping, Sequence

from rlhf_jax.rewards.answers import (
    Completion,
    content_of,
    final_answer,
    marked_answer,
    normal_form,
    opens_reasoning,
    targets_of,
)
from rlhf_jax.rewards.choices import same_choice
from rlhf_jax.rewards.quantities import names_differ, quantity_of, same_quantity

_TAG = re.compile(r"</?(?:think|answer)>")


def exact_match_reward(
    prompts: Sequence[object] | None,
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    extract: bool = True,
    **columns: Sequence[object],
) -> list[float | None]:
    """1 when the completion is the right answer, else 0; None for a row without an answer.

    Args:
      prompts: where ``<think>`` may have been opened: an answer in reasoning that is never closed
        is none.
      completions: B completions.
      completion_ids: unused.
      extract: compare final answers: numbers by value ("#### 1,200" equals "1200"), units where
        both have one, all else in normal form (`normal_form`); False: compare the whole text
        without the white space around it.
      columns: data columns, the answer among them (`targets_of`).
    """
    scores: list[float | None] = []
    for i, completion in enumerate(completions):
        targets = targets_of(columns, i)
        if targets is None:
            scores.append(None)
        elif extract:
            answer = final_answer(
                content_of(completion), opened=opens_reasoning(prompts, columns, i)
            )
            scores.append(
                float(answer is not None and any(_matches(answer, target) for target in targets))
            )
        else:
            scores.append(
                float(content_of(completion).strip() in [target.strip() for target in targets])
            )
    return scores


def _matches(answer: str, target: str) -> bool:
    target = marked_answer(target) or target
    if names_differ(answer, target):
        return False
    chosen = same_choice(answer, target)
    if chosen is not None:
        return chosen
    value = quantity_of(answer)
    wanted = quantity_of(target)
    if value is not None and wanted is not None:
        return same_quantity(value, wanted)
    return normal_form(answer) == normal_form(target) != ""


def think_format_reward(
    prompts: Sequence[object] | None,
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    answer: bool = False,
    opened: bool | None = None,
    **columns: Sequence[object],
) -> list[float]:
    """1 when the completion is one block ``<think>..</think>`` followed by something else, else 0.

    Args:
      prompts: B prompts.
      completions: B completions.
      completion_ids: unused.
      answer: what follows must be exactly one block ``<answer>..</answer>``.
      opened: the prompt already ends in ``<think>``, the completion starts inside the block. None:
        as each prompt says, which in a run is the prompt as the chat template rendered it
        (`opens_reasoning`).
      columns: what a run knows of its prompts.
    """
    wanted = ["<think>", "</think>"] + (["<answer>", "</answer>"] if answer else [])
    scores = []
    for i, completion in enumerate(completions):
        inside = opens_reasoning(prompts, columns, i) if opened is None else opened
        text = ("<think>" if inside else "") + content_of(completion).strip()
        tags = _TAG.findall(text)
        rest = text.rpartition("</think>")[2].strip()
        framed = (
            rest.startswith("<answer>") and rest.endswith("</answer>") if answer else bool(rest)
        )
        ordered = (
            tags == wanted
            if answer
            else tags[:2] == wanted and tags.count("<think>") == tags.count("</think>") == 1
        )
        scores.append(float(text.startswith("<think>") and ordered and framed))
    return scores


def format_reward(
    prompts: Sequence[object],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    pattern: str,
    whole: bool = True,
    **columns: Sequence[object],
) -> list[float]:
    """1 when the completion fits a regular expression, else 0.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      pattern: a regular expression of Python's `re`; "." also matches line ends.
      whole: it must cover the whole completion (without white space around it); False: it may occur
        anywhere.
      columns: unused.
    """
    compiled = re.compile(pattern, re.DOTALL)
    fits = compiled.fullmatch if whole else compiled.search
    return [float(fits(content_of(completion).strip()) is not None) for completion in completions]


def length_reward(
    prompts: Sequence[object],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    *,
    max_len: int,
    min_len: int = 0,
    slope: int = 1,
    **columns: Sequence[object],
) -> list[float]:
    """1 for a length from min_len to max_len, falling in a line to 0 at `slope` tokens outside.

    Args:
      prompts: unused.
      completions: unused.
      completion_ids: B lists of tokens.
      max_len: longest good length, tokens.
      min_len: shortest good length, tokens.
      slope: tokens from 1 down to 0, at least 1.
      columns: unused.
    """
    _check("length.slope", slope, 1)
    _check("length.max_len", max_len, min_len)
    outside = [max(min_len - len(ids), len(ids) - max_len, 0) for ids in completion_ids]
    return [max(0.0, 1.0 - excess / slope) for excess in outside]


def repetition_reward(
    prompts: Sequence[object],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    n: int = 3,
    max_penalty: float = 1.0,
    **columns: Sequence[object],
) -> list[float]:
    """Minus max_penalty times the share of n-grams of words that repeat an earlier one.

    Args:
      prompts: unused.
      completions: B completions.
      completion_ids: unused.
      n: words of an n-gram, at least 1.
      max_penalty: reward units, not negative.
      columns: unused.
    """
    _check("repetition.n", n, 1)
    _check("repetition.max_penalty", max_penalty, 0)
    scores = []
    for completion in completions:
        words = content_of(completion).lower().split()
        total = len(words) - n + 1
        distinct = len(set(zip(*(words[k:] for k in range(n)), strict=False)))
        scores.append(0.0 - max_penalty * (1.0 - distinct / total) if total > 0 else 0.0)
    return scores


def overlong_reward(
    prompts: Sequence[object],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    *,
    max_len: int,
    buffer_len: int,
    factor: float = 1.0,
    **columns: Sequence[object],
) -> list[float]:
    """Soft overlong punishment, DAPO eq. 13 (arXiv:2503.14476), in tokens; clamped at -factor.

        R = 0                                                   |y| <= max_len - buffer_len
          = factor ((max_len - buffer_len) - |y|) / buffer_len  up to max_len
          = -factor                                             beyond

    Args:
      prompts: unused.
      completions: unused.
      completion_ids: B lists of tokens, EOS included.
      max_len: L_max, tokens.
      buffer_len: L_cache, tokens, from 1 to max_len.
      factor: reward units.
      columns: unused.
    """
    _check("overlong.buffer_len", buffer_len, 1)
    _check("overlong.max_len", max_len, buffer_len)
    return [
        0.0 - factor * min(max(len(ids) - (max_len - buffer_len), 0) / buffer_len, 1.0)
        for ids in completion_ids
    ]


def check_targets(columns: Mapping[str, Sequence[object]]) -> None:
    """Raises ValueError unless a column holds the right answers."""
    if all(len(values) for values in columns.values()):
        targets_of(columns, 0)


def _check(name: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"reward option {name} {value} must be at least {least}")
