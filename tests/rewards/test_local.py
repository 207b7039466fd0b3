"""Functions that a program hands over: TRL's contract in its own process."""

import asyncio
import functools
import os
import threading

import numpy as np
import pytest

from rlhf_jax.handed import handing
from rlhf_jax.io import COMPLETION_COLUMNS
from rlhf_jax.rewards import PoolConfig, RewardConfig, TrainerState, fingerprint, make_rewards
from rlhf_jax.rewards.errors import RewardError
from rlhf_jax.rewards.local import split_handed

NAN = np.nan
WORDS = ["ccc", "bb", "dddd", "a"]


def score(rewards, words=WORDS, columns=None, pool=None, **more):
    """(scores of a batch, processes that were started)."""
    written, functions = split_handed(rewards)
    configs = [RewardConfig(**entry) for entry in written]
    with (
        handing(functions),
        make_rewards(configs, pool or PoolConfig(), reserved=COMPLETION_COLUMNS) as made,
    ):
        return made.score(["p"] * len(words), words, [[1]] * len(words), columns or {}, **more)


def rank(completions, **columns):
    """Compares the completions of a batch."""
    return [float(sorted(completions, key=len).index(each)) for each in completions]


def test_lambdas_closures_and_methods_are_called_with_the_whole_batch_in_this_process():
    seen = []

    class Counter:
        def __init__(self):
            self.calls = 0

        def __call__(self, prompts, completions):
            self.calls += 1
            return [self.calls] * len(completions)

    def closure(completions, **columns):
        seen.append((os.getpid(), threading.get_ident(), len(completions)))
        return [len(each) for each in completions]

    counter = Counter()
    rewards = [rank, lambda completions, **_: [0.5] * len(completions), closure, counter]
    found = score(rewards)
    assert list(found.by_name) == ["rank", "lambda", "closure", "Counter"]
    assert found.by_name["rank"].tolist() == [2.0, 1.0, 3.0, 0.0]
    assert seen == [(os.getpid(), threading.get_ident(), 4)] and counter.calls == 1
    assert found.total.tolist() == [2 + 0.5 + 3 + 1, 1 + 0.5 + 2 + 1, 3 + 0.5 + 4 + 1, 2.5]
    score([counter])
    assert counter.calls == 2, "what it remembers stays"


def test_trl_contract():
    def full(prompts, completions, completion_ids, kind, trainer_state, log_metric, log_extra):
        log_metric("step", trainer_state.global_step)
        log_extra("kinds", [k.upper() for k in kind])
        return [float(k == "x") if k else None for k in kind]

    columns = {"kind": ["x", "", "y", "x"]}
    found = score([full], columns=columns, state=TrainerState(global_step=7))
    np.testing.assert_array_equal(found.total, [1.0, NAN, 0.0, 1.0])
    assert found.metrics == {"full/step": 7.0}
    assert found.extra == {"kinds": ["X", "", "Y", "X"]}
    assert found.failures == {"full/none": 1}
    with pytest.raises(ValueError, match="reward 'full' needs a column 'kind', the data has none"):
        score([full])


def test_verl_functions_and_options():
    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return float(solution_str == ground_truth)

    columns = {"ground_truth": ["ccc", "", "dddd", ""], "data_source": ["s"] * 4}
    assert score([compute_score], columns=columns).total.tolist() == [1.0, 0.0, 1.0, 0.0]

    def scaled(completions, factor, **columns):
        return [factor * len(each) for each in completions]

    entry = {"function": scaled, "weight": 2.0, "name": "long", "options": {"factor": 0.5}}
    found = score([entry])
    assert found.by_name["long"].tolist() == [1.5, 1.0, 2.0, 0.5]
    assert found.total.tolist() == [3.0, 2.0, 4.0, 1.0]
    assert score([functools.partial(scaled, factor=1.0)]).by_name["scaled"][0] == 3.0


@pytest.mark.parametrize("batched", [None, False])
def test_asynchronous_functions_work_where_a_loop_runs_already(batched):
    """As in a notebook's cell; their loop is the same at every call."""
    loops = []

    async def slow(completions, **columns):
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [float(len(each)) for each in completions]

    async def cell():
        written, functions = split_handed([{"function": slow, "batched": batched}])
        configs = [RewardConfig(**entry) for entry in written]
        with handing(functions), make_rewards(configs) as rewards:
            for _ in range(2):
                found = rewards.score(["p"] * 4, WORDS, [[1]] * 4, {})
        return found

    assert asyncio.run(cell()).total.tolist() == [3.0, 2.0, 4.0, 1.0]
    assert len(set(map(id, loops))) == 1 and len(loops) == (2 if batched is None else 8)


def test_a_fault_costs_its_own_completion():
    def picky(completions, **columns):
        if "bb" in completions:
            raise KeyError("bb")
        return rank(completions)

    found = score([picky])
    np.testing.assert_array_equal(found.total, [1.0, NAN, 2.0, 0.0])
    assert found.failures == {"picky/error": 1} and "KeyError" in found.messages["picky/error"]


def test_a_wrong_result_ends_the_run():
    with pytest.raises(RewardError, match=r"reward 'short' \(<callable short>\) returned 1 values"):

        def short(completions, **columns):
            return [1.0]

        score([short])


def test_a_person_can_interrupt_it():
    def stop(completions, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score([stop])


def test_what_a_function_changes_is_its_own_copy():
    def greedy(completions, tags, **columns):
        for each in tags:
            each.clear()
        return [0.0] * len(completions)

    def counts(tags, completions, **columns):
        return [float(len(each)) for each in tags]

    columns = {"tags": [["a"], ["a", "b"], [], ["c"]]}
    assert score([greedy, counts], columns=columns).by_name["counts"].tolist() == [1, 2, 0, 1]
    assert columns["tags"][1] == ["a", "b"]


def test_beside_built_in_ones():
    columns = {"answer": ["ccc", "x", "x", "x"]}
    found = score(["exact_match", rank], columns=columns)
    assert found.total.tolist() == [3.0, 1.0, 3.0, 0.0]


REFUSED = [
    ([rank, rank], r"rewards\[1\]: 'rank' names two functions; give each its own name"),
    ([3], r"rewards\[0\] is a int: give a function, the name of a built-in one"),
]


@pytest.mark.parametrize(("rewards", "message"), REFUSED)
def test_what_is_no_reward_is_one_line(rewards, message):
    with pytest.raises(ValueError, match=message):
        split_handed(rewards)


def test_without_the_function_it_is_one_line():
    config = RewardConfig(function="<callable rank>", name="rank")
    message = r"^rewards.function=<callable rank> was handed over by the program"
    with pytest.raises(ValueError, match=message):
        make_rewards([config])
    with pytest.raises(ValueError, match=message):
        fingerprint([config])


def test_the_fingerprint_is_of_its_text():
    def digest(function):
        written, functions = split_handed([{"function": function, "name": "f"}])
        with handing(functions):
            return fingerprint([RewardConfig(**entry) for entry in written])

    def other(completions, **columns):
        return [1.0] * len(completions)

    assert digest(rank) == digest(functools.partial(rank)) != digest(other)
    spaces = [{}, {}, {}]
    for space, number in zip(spaces, (1, 1, 2), strict=True):
        exec(f"def typed(completions): return [{number}.5 for _ in completions]", space)
    typed = [digest(space["typed"]) for space in spaces]
    assert typed[0] == typed[1] != typed[2], "also where no text is kept"
