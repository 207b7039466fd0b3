"""The value of an option that each run is compared with, chosen on seeds that are not reported."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf_jax.config import CompareConfig, StageConfig
from rlhf_jax.errors import TrainingError
from rlhf_jax.io.disk import write_whole
from rlhf_jax.runs.cells import fingerprint
from rlhf_jax.runs.kept import kept, read_kept
from rlhf_jax.runs.share import share, taking

TUNED = "tuning.json"
"""In the folder of a run; all of its trials are finished."""
TRIAL = "trial.json"
"""In the folder of a trial: what it reached."""


def tune(
    config: CompareConfig,
    stage: StageConfig,
    measure: Callable[[CompareConfig, StageConfig, int], dict[str, float]],
    *,
    metric: str,
) -> dict[str, Any]:
    """Tries every value with every tuning seed.

    Args:
      config: the comparison.
      stage: the run that is tuned.
      measure: (comparison, run in it, seed) -> held-out metrics after training, none where it
        diverged; makes the start and the preparations of that seed too, and raises `Taken` where
        another process is at one.
      metric: the one that decides where `tuning.metric` says none.

    Returns:
      {"asked" (what was tried), "value" (the best), "trials": [{"value", "seed", "reached"}]}.

    Raises:
      TrainingError: a trial cannot go on for another reason, or no value is left.
    """
    tuning = config.tuning
    assert tuning is not None
    before = tuned_before(config, stage)
    if before is not None:
        return before

    def reached(piece: tuple[Any, int]) -> dict[str, Any]:
        value, seed = piece
        whole, trial = config.trial(stage.name, value)
        with taking(whole, trial, seed):
            found = kept_trial(whole, trial, seed, lambda: measure(whole, trial, seed))
        reached = found.get(tuning.metric or metric, float("nan"))
        return {"value": value, "seed": seed, "reached": reached}

    # Seed by seed: processes side by side then compile the programs of different values.
    trials = share([(value, seed) for seed in tuning.seeds for value in tuning.values], reached)
    found = {"asked": _asked(config, stage), "value": best_value(trials), "trials": trials}
    path = _file(config, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found, indent=1) + "\n")
    return found


def tuned_before(config: CompareConfig, stage: StageConfig) -> dict[str, Any] | None:
    """What `tune` has found, if all of it was tried before.

    Args:
      config: the comparison.
      stage: the run that is tuned.
    """
    found = read_kept(_file(config, stage))
    return found if found.get("asked") == _asked(config, stage) else None


def kept_trial(
    config: CompareConfig, trial: StageConfig, seed: int, measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """What a trial reached, by all metrics; kept in its folder, and measured where it is not there.

    Args:
      config: the comparison that the trial is a run of.
      trial: the run.
      seed: a tuning seed.
      measure: makes the trial.
    """
    path = config.folder(trial, seed) / TRIAL
    return kept(path, fingerprint(config, trial, seed), measure)


def _asked(config: CompareConfig, stage: StageConfig) -> dict[str, Any]:
    """What is tried. Of the untuned configuration: a changed one is tuned anew."""
    tuning = config.tuning
    assert tuning is not None
    return {
        "key": tuning.key,
        "metric": tuning.metric,
        "values": list(tuning.values),
        "seeds": list(tuning.seeds),
        "configuration": fingerprint(config, stage, tuning.seeds[0]),
    }


def _file(config: CompareConfig, stage: StageConfig) -> pathlib.Path:
    return pathlib.Path(config.run_dir) / stage.name / TUNED


def best_value(trials: list[dict[str, Any]]) -> Any:
    """The value with the highest mean over its seeds; of equal ones the first. A trial that could
    not be judged (NaN) rules its value out.

    Raises:
      TrainingError: no value could be judged with all seeds.
    """
    known = [(value, mean) for value, mean in means(trials) if mean == mean]
    if not known:
        raise TrainingError(
            "tuning: no value could be judged with all tuning.seeds; try other values"
        )
    return max(known, key=lambda pair: pair[1])[0]


def means(trials: list[dict[str, Any]]) -> list[tuple[Any, float]]:
    """(value, mean over its seeds) of every value that was tried, in the order in which they were;
    NaN where a trial could not be judged."""
    reached: dict[str, tuple[Any, list[float]]] = {}
    for trial in trials:
        reached.setdefault(repr(trial["value"]), (trial["value"], []))[1].append(trial["reached"])
    return [(value, float(np.mean(values))) for value, values in reached.values()]
