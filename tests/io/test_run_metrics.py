"""What is said of a metric by its name."""

import pytest

from rlhf_jax.io.run_metrics import meaning_of


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("policy/entropy", "entropy of the policy"),
        ("rewards/mean", "mean reward of gradable"),
        ("rewards/greedy", "mean reward on held-out prompts"),
        ("rewards/my_reward", "mean of one reward function"),
        ("rewards/my_reward/found", "mean of one reward function"),
        ("rewards/my_reward/found_sampled", "mean of one reward function"),
        ("rewards/failed/math/timeout", "completions that it could not grade"),
        ("accuracy/pass@16", "of k samples"),
        ("time/update", "seconds of each part"),
        ("time/update_max", "the longest of these"),
        ("time/compile", "seconds of tracing and compiling"),
    ],
)
def test_meaning(name, beginning):
    assert str(meaning_of(name)).startswith(beginning)


@pytest.mark.parametrize("name", ["own/thing", "accuracy/mean@k2", "rewards/a/b/c", ""])
def test_what_nobody_documents(name):
    assert meaning_of(name) is None
