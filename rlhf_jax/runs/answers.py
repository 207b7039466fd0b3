"""What the models of a comparison answer: a few held-out prompts, put to each of them."""

import dataclasses
from typing import NamedTuple

from rlhf_jax.config import CompareConfig
from rlhf_jax.runs.evaluate import measuring
from rlhf_jax.runs.trees import load_policy


class Answers(NamedTuple):
    """A table of answers."""

    prompts: list[str]
    models: dict[str, list[list[tuple[str, bool | None]]]]
    """Name of a run -> for every prompt its answers, and whether each is right (None: not
    judged)."""


def ask(compared: CompareConfig, *, prompts: int = 3, samples: int = 4) -> Answers:
    """Sampled answers of the starting model and of every compared run (its first seed).

    Args:
      compared: a comparison that is finished.
      prompts: the first held-out ones.
      samples: answers of each model to each prompt.

    Raises:
      ValueError: a model or the prompts cannot be loaded.
    """
    seed = compared.seeds[0]
    config = compared.measuring_config(seed)
    evaluation = dataclasses.replace(config.evaluation, samples=samples, max_prompts=prompts)
    config = dataclasses.replace(config, evaluation=evaluation)
    stages = [*([] if compared.start is None else [compared.start]), *compared.runs]
    folders = {stage.name: compared.folder(stage, seed) / "export" for stage in stages}
    asked: list[str] = []
    models = {}
    with measuring(config) as parts:
        for name, folder in folders.items():
            section = dataclasses.replace(config.model, path=str(folder), config=None)
            params = load_policy(dataclasses.replace(config, model=section), parts.mesh, None)[1]
            found = parts.answers(params)
            columns = found.samples[-1]
            pairs = list(zip(columns["completion"], found.right[-1], strict=True))
            asked = columns["prompt"][::samples]
            models[name] = [
                pairs[first : first + samples] for first in range(0, len(pairs), samples)
            ]
    return Answers(asked, models)
