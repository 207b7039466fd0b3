"""The value of an option that each run is compared with, chosen on seeds that are not reported."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf_jax.config import CompareConfig, StageConfig
from rlhf_jax.io.disk import write_whole
from rlhf_jax.runs.cells import fingerprint

TUNED = "tuning.json"
"""In the folder of a run's trials; all of them are finished."""


def tune(
    config: CompareConfig,
    stage: StageConfig,
    measure: Callable[[CompareConfig, StageConfig, int], float],
) -> dict[str, Any]:
    """Tries every value with every tuning seed.

    Args:
      config: the comparison.
      stage: the run that is tuned.
      measure: (comparison, run in it, seed) -> what it reached after training; makes the start and
        the preparations of that seed too.

    Returns:
      {"asked" (what was tried), "value" (the best), "trials": [{"value", "seed", "reached"}]}.
    """
    tuning = config.tuning
    assert tuning is not None
    # Of the untuned configuration: a changed one is tuned anew.
    asked = {
        "key": tuning.key,
        "values": list(tuning.values),
        "seeds": list(tuning.seeds),
        "configuration": fingerprint(config, stage, tuning.seeds[0]),
    }
    path = trials_file(config, stage)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            return kept
    trials = []
    for value in tuning.values:
        whole, trial = config.trial(stage.name, value)
        trials += [
            {"value": value, "seed": seed, "reached": measure(whole, trial, seed)}
            for seed in tuning.seeds
        ]
    found = {"asked": asked, "value": best_value(trials), "trials": trials}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found, indent=1) + "\n")
    return found


def trials_file(config: CompareConfig, stage: StageConfig) -> pathlib.Path:
    """Where the trials of a run are kept."""
    return pathlib.Path(config.run_dir) / stage.name / TUNED


def best_value(trials: list[dict[str, Any]]) -> Any:
    """The value with the highest mean over its seeds; of equal ones the first. A trial that could
    not be judged (NaN) rules its value out.

    Raises:
      ValueError: no value could be judged with all seeds.
    """
    reached: dict[str, tuple[Any, list[float]]] = {}
    for trial in trials:
        reached.setdefault(repr(trial["value"]), (trial["value"], []))[1].append(trial["reached"])
    means = [(value, float(np.mean(values))) for value, values in reached.values()]
    known = [(value, mean) for value, mean in means if mean == mean]
    if not known:
        raise ValueError("tuning: no value could be judged with all tuning.seeds; try other values")
    return max(known, key=lambda pair: pair[1])[0]
