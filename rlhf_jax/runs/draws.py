"""Own samples of the start: as data for SFT and DPO, and as the best of several answers."""

import dataclasses
import json
import logging
from typing import Any, Literal

import numpy as np

from rlhf_jax.config import CompareConfig, MeasureConfig, StageConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.fields import plain
from rlhf_jax.io.disk import write_whole
from rlhf_jax.loops.held_out import HeldOut
from rlhf_jax.runs.by_prompt import ByPrompt, means_by_prompt
from rlhf_jax.runs.evaluate import measuring
from rlhf_jax.runs.kept import digest

_log = logging.getLogger(__name__)
FILES = ("correct.jsonl", "pairs.jsonl")
DRAWN = "draw.json"
"""What a draw cost; written last, so that one without it is made again."""


def draw(config: CompareConfig, stage: StageConfig, seed: int) -> dict[str, Any]:
    """Samples the start on training prompts and writes what is right, and pairs of right and wrong.

    Of a prompt with r right and w wrong samples, min(r, w) pairs are written, in the order drawn.

    Args:
      config: the comparison.
      stage: a preparation with `draw`.
      seed: of the start and of the samples.

    Returns:
      Counts: prompts, samples, tokens (generated), correct, pairs; and asked, a digest of what was
      asked for.

    Raises:
      ValueError: what is there was drawn with another configuration.
      TrainingError: there is no right sample, or no prompt with a right and a wrong one.
    """
    folder = config.folder(stage, seed)
    wanted = stage.draw
    assert wanted is not None
    measured = config.measuring_config(seed)
    evaluation = dataclasses.replace(
        measured.evaluation,
        samples=wanted.samples,
        max_prompts=wanted.prompts,
        temperature=wanted.temperature,
    )
    limit = wanted.max_new_tokens or measured.rollout.max_new_tokens
    rollout = dataclasses.replace(measured.rollout, max_new_tokens=limit)
    measured = dataclasses.replace(measured, evaluation=evaluation, rollout=rollout)
    asked = digest(plain(measured))
    if (folder / DRAWN).exists():
        kept: dict[str, Any] = json.loads((folder / DRAWN).read_text(encoding="utf-8"))
        if kept["asked"] != asked:
            raise ValueError(
                f"{folder} was drawn with another configuration; give another run_dir, or delete "
                "it to draw anew"
            )
        return kept
    found = _sampled(measured, split="train")
    columns = found.samples[-1]
    right = found.right[-1]
    correct, pairs = sorted_out(columns["prompt"], columns["completion"], right, wanted.samples)
    if not correct or not pairs:
        raise TrainingError(
            f"{stage.name}: {len(right)} samples of the start gave {len(correct)} right ones and "
            f"{len(pairs)} pairs; raise draw.prompts or train the start differently"
        )
    counts: dict[str, Any] = {
        "asked": asked,
        "prompts": len(right) // wanted.samples,
        "samples": len(right),
        "tokens": float(np.sum(columns["tokens"])),
        "correct": len(correct),
        "pairs": len(pairs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(FILES, (correct, pairs), strict=True):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(folder / name, text)
    write_whole(folder / DRAWN, json.dumps(counts, indent=1))
    _log.info(
        "%s: %d of %d samples are right, %d pairs", stage.name, len(correct), len(right), len(pairs)
    )
    return counts


def sorted_out(
    prompts: list[Any], completions: list[str], right: list[bool | None], samples: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(right samples, pairs of a right and a wrong one) as rows of a data file.

    Args:
      prompts, completions, right: of every sample, those of one prompt behind each other; empty
        ones and those that were not judged (None) are left out.
      samples: of each prompt.
    """
    correct: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for first in range(0, len(right), samples):
        of_prompt = range(first, first + samples)
        # An empty answer, which ended at once, is no row to learn from.
        told = [place for place in of_prompt if completions[place].strip()]
        good = [completions[place] for place in told if right[place] is True]
        bad = [completions[place] for place in told if right[place] is False]
        prompt = prompts[first]
        correct += [{"prompt": prompt, "completion": text} for text in good]
        pairs += [
            {"prompt": prompt, "chosen": better, "rejected": worse}
            for better, worse in zip(good, bad, strict=False)
        ]
    return correct, pairs


def best_of(
    config: CompareConfig, stage: StageConfig, seed: int
) -> tuple[dict[str, float], ByPrompt]:
    """Metrics of the start where of several answers to each held-out prompt the one with the
    highest reward counts (of equal ones the first).

    Returns:
      (metrics, what was reached on each prompt). Metrics are accuracy/mean@k and accuracy/greedy
      (of the answers that count), rewards/sampled, rewards/NAME_sampled of each reward,
      length/sampled, and answer/tokens: generated for one answer, all samples together.
    """
    number = stage.best_of
    assert number is not None
    measured = config.measuring_config(seed)
    evaluation = dataclasses.replace(measured.evaluation, samples=number)
    found = _sampled(dataclasses.replace(measured, evaluation=evaluation), split="eval")
    columns = found.samples[-1]
    names = [reward.label for reward in measured.rewards]
    chosen = best_places(columns["reward"], number)
    judged = [found.right[-1][place] for place in chosen]
    known = [float(verdict) for verdict in judged if verdict is not None]
    accuracy = float(np.mean(known)) if known else float("nan")
    samples = measured.evaluation.samples
    metrics = {
        "accuracy/greedy": accuracy,
        "rewards/sampled": _mean(columns["reward"], chosen),
        "length/sampled": _mean(columns["tokens"], chosen),
        "answer/tokens": float(np.mean(columns["tokens"])) * number,
    }
    metrics |= {f"rewards/{name}_sampled": _mean(columns[name], chosen) for name in names}
    if samples:
        metrics[f"accuracy/mean@{samples}"] = accuracy
    kept = {name: [columns[name][place] for place in chosen] for name in names}
    by_prompt = means_by_prompt(kept, judged, names, samples=samples, size=1)
    return metrics, by_prompt


def best_places(rewards: list[float], number: int) -> list[int]:
    """Place of the highest reward of each prompt, of equal ones the first; what was not graded
    (NaN) is never best unless nothing was."""
    scores = np.asarray(rewards, np.float64).reshape(-1, number)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = scores.argmax(1) + np.arange(len(scores)) * number
    return [int(place) for place in best]


def _mean(values: list[float], places: list[int]) -> float:
    known = np.asarray(values, np.float64)[places]
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _sampled(measured: MeasureConfig, *, split: Literal["train", "eval"]) -> HeldOut:
    with measuring(measured, split=split) as parts:
        return parts.answers(parts.params)
