"""What happens when a training batch cannot be filled, and what is said about groups that are left
out."""

import logging
from typing import Literal

from rlhf_jax.algorithms import DAPOConfig
from rlhf_jax.config import Config
from rlhf_jax.loops.errors import TrainingError
from rlhf_jax.loops.grading import Grader

_log = logging.getLogger(__name__)
SOLVED = 0.9
"""Share of the groups generated that must be judged, and all right, for the task to be called
solved."""


def at_cap(
    config: Config, dynamic: DAPOConfig, tally: dict[str, float], found: int
) -> Literal["train", "skip", "solved"]:
    """The policy at the cap of generation batches.

    Args:
      config: the run.
      dynamic: its algorithm.
      tally: sums over the generation batches.
      found: groups with a right and a wrong answer.

    Returns:
      train: on the groups that were found; skip: leave the step out; solved: everything is right,
        the run ends.

    Raises:
      TrainingError: on_cap=raise, or there is nothing to train on.
    """
    generated = tally["data/groups_generated"]
    story = (
        f"after {dynamic.max_generation_batches} generation batches "
        f"(algorithm.max_generation_batches) {found} of "
        f"{config.training.batch_size} groups have a right and a wrong answer: of {generated:.0f} "
        "generated, "
        f"{tally['data/groups_all_wrong']:.0f} are all wrong, {tally['data/groups_all_right']:.0f} "
        "all right, "
        f"{tally['data/groups_ungraded']:.0f} not graded and {tally['data/groups_unjudged']:.0f} "
        "graded but not judged"
    )
    if dynamic.on_cap == "skip":
        _log.warning("%s; this step is left out (algorithm.on_cap=skip)", story)
        return "skip"
    if (
        not found
        and not tally["data/groups_all_wrong"]
        and tally["data/groups_all_right"] >= SOLVED * generated
    ):
        _log.info("%s: the task is solved, the run ends here", story)
        return "solved"
    if dynamic.on_cap == "raise" or not found:
        run_dir = config.run_dir
        raise TrainingError(
            f"{story}; the same command goes on with algorithm.on_cap=skip, a larger "
            "algorithm.max_generation_batches or "
            "algorithm.dynamic_sampling=false; for other prompts, another accuracy_reward or a "
            "larger algorithm.group_size "
            f"start a new run from what was learnt: rlhf-jax export {run_dir} FOLDER, then "
            "model.path=FOLDER run_dir=NEW"
        )
    _log.warning("%s; training on those", story)
    return "train"


def warn_unjudged(grader: Grader, groups: int, dynamic: bool) -> None:
    """Says once that groups are thrown away which rewards have graded."""
    if not groups or not dynamic or grader.told_unjudged:
        return
    grader.told_unjudged = True
    judges = ", ".join(grader.names[index] for index in grader.judge.judges)
    _log.warning(
        "%d groups of a generation batch are left out of training (metric data/groups_unjudged): "
        "rewards have graded them, but "
        "none that says right or wrong, which is %s; name the verifier of every task in "
        "algorithm.accuracy_reward=[%s, ...]",
        groups,
        judges,
        judges,
    )
