"""What the loops report beside the metrics of an algorithm (`rlhf_jax.algorithms.METRICS`), and
what each means."""

import re

from rlhf_jax.algorithms import METRICS

RUN_METRICS: dict[tuple[str, ...], str] = {
    ("sampler/utilisation",): "sampled tokens that count per (slots x steps) of the sampler",
    ("sampler/tokens_per_second",): "sampled tokens that count per second of generation",
    ("rewards/NAME", "rewards/NAME/METRIC"): (
        "mean of one reward function over everything generated (absent where nothing was "
        "graded), and of what it logs by `log_metric`"
    ),
    ("rewards/failed/NAME/KIND",): (
        "completions that it could not grade: timeout, error, crash, none; slow: graded 0 for "
        "being too slow"
    ),
    ("rewards/greedy", "rewards/sampled"): (
        "mean reward on held-out prompts, greedy and at the sampling temperature"
    ),
    (
        "rewards/ungraded_sampled",
        "rewards/failed_sampled/NAME/KIND",
        "rewards/NAME_sampled",
        "rewards/NAME/METRIC_sampled",
    ): (
        "at evaluation, of the samples (without `_sampled`: of the greedy completions); "
        "`rewards/NAME` where there are several rewards"
    ),
    ("accuracy/greedy",): (
        "share of held-out prompts whose greedy answer is right (its `accuracy_reward` is above "
        "0), of those that were judged"
    ),
    ("accuracy/mean@k", "accuracy/pass@k", "accuracy/maj@k"): (
        "of k samples: share right; prompts with a right one; prompts whose most frequent "
        "answer is right; each of what was judged"
    ),
    ("length/greedy", "length/truncated_greedy"): (
        "tokens of greedy held-out completions, and share cut by the limit"
    ),
    ("data/accuracy",): "share of right completions among all generated that were judged",
    ("data/generation_batches",): "generation batches that it took to fill this training batch",
    ("data/groups_generated", "data/groups_kept"): (
        "groups sampled for it, and those that are trained on or carried over"
    ),
    (
        "data/groups_all_right",
        "data/groups_all_wrong",
        "data/groups_ungraded",
        "data/groups_unjudged",
    ): (
        "groups without a right and a wrong answer: all right, all wrong, graded by no reward, "
        "or by none that says right or wrong"
    ),
    ("data/groups_alike",): (
        "groups dropped because all rewards are equal, where a reward model judges and there is no "
        "right and wrong"
    ),
    ("data/groups_carried", "data/groups_left"): (
        "groups brought from the batch before, and left for the next"
    ),
    ("data/groups_trained",): (
        "groups in the training batch; the rest up to the batch size is empty (at the cap)"
    ),
    ("data/steps_skipped",): (
        "steps left out until now because their batch could not be filled (`algorithm.on_cap=skip`)"
    ),
    ("data/tokens_generated",): (
        "completion tokens sampled for this batch, those of dropped groups included"
    ),
    ("data/sampling_waste",): "share of generated groups that taught nothing",
    ("data/padding",): "share of the places that an update computes which hold no token",
    ("data/prompts_retired", "data/epoch"): "prompts no longer asked; passes over the prompts",
    (
        "time/generate",
        "time/reward",
        "time/score",
        "time/update",
        "time/evaluate",
        "time/elapsed",
    ): ("seconds of each part of a step, and since the run started"),
    ("time/compile",): (
        "seconds of tracing and compiling programs, or of reading them from the cache, since "
        "the row before (part of the step's or the evaluation's time; absent where there were "
        "none)"
    ),
    ("time/NAME_max",): "the longest of these over all processes, where there are several",
    ("grad_norm",): "global norm of the gradient, before clipping",
    ("lr",): (
        "learning rate of the last update, as it was applied (0 while PPO trains its critic alone)"
    ),
    ("update/skipped",): "1 when the loss or a gradient was not finite and the update was skipped",
    ("update/skipped_in_a_row",): "such updates in a row until now",
    ("update/skipped_total",): "such updates in all",
    ("epoch",): "passes over the training data",
    ("time/step",): "wall time of the step, seconds",
    ("tokens_per_second",): "tokens of the batch (padding not counted) per second",
}
"""Names -> meaning. NAME is a reward, KIND a way to fail, METRIC what a reward function logs, k the
number of samples."""
_WILD = {"NAME": "[^/]+", "KIND": "[^/]+", "METRIC": "[^/]+", "k": "[0-9]+"}
_PATTERNS = [
    (re.compile(re.sub(r"NAME|KIND|METRIC|(?<=@)k", lambda wild: _WILD[wild[0]], name)), text)
    for names, text in RUN_METRICS.items()
    for name in sorted(names, key=lambda name: "NAME" in name)
]


def meaning_of(name: str) -> str | None:
    """What a metric of a run says; None for one that nobody documents, such as a user's own."""
    if name in METRICS:
        return METRICS[name]
    exact = [text for names, text in RUN_METRICS.items() if name in names]
    found = exact or [text for pattern, text in _PATTERNS if pattern.fullmatch(name)]
    return found[0] if found else None
