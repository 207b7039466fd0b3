"""Functions of one's own get the whole batch, as in TRL; a fault costs its own completion."""

import logging
import pathlib

import numpy as np
import pytest

from rlhf_jax.io import COMPLETION_COLUMNS
from rlhf_jax.rewards import PoolConfig, RewardConfig, TrainerState, make_rewards
from rlhf_jax.rewards.errors import RewardError

GRADERS = pathlib.Path(__file__).with_name("graders.py")
NAN = np.nan


def _open(*functions, timeout=0.5, workers=2, **fields):
    configs = [RewardConfig(function=f"{GRADERS}:{function}", **fields) for function in functions]
    return make_rewards(
        configs, PoolConfig(timeout=timeout, workers=workers), reserved=COMPLETION_COLUMNS
    )


def _score(rewards, words, columns=None, **more):
    return rewards.score(["p"] * len(words), words, [[1]] * len(words), columns or {}, **more)


def test_a_function_may_compare_the_completions_of_a_batch():
    with _open("rank") as rewards:
        assert _score(rewards, ["ccc", "bb", "dddd", "a"]).total.tolist() == [2.0, 1.0, 3.0, 0.0]
    with _open("rank", batched=False) as rewards:
        assert _score(rewards, ["ccc", "bb", "dddd", "a"]).total.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("word", "kind"),
    [("raise", "error"), ("exit", "crash"), ("hang", "timeout"), ("infinite", None)],
)
def test_one_bad_completion_costs_itself_and_the_others_are_still_compared(word, kind, caplog):
    words = ["ccc", word, "bb", "dddd", "a"]
    with _open("rank", timeout=0.3) as rewards:
        scores = _score(rewards, words)
    expected = [2.0, NAN, 1.0, 3.0, 0.0] if kind else [2.0, 4.0, 1.0, 3.0, 0.0]
    np.testing.assert_array_equal(scores.total, expected)
    assert scores.failures == ({f"rank/{kind}": 1} if kind else {})
    told = [
        r
        for r in caplog.records
        if r.levelno == logging.WARNING and "call with the whole batch" in r.getMessage()
    ]
    assert len(told) == (1 if kind else 0)


FORMS = {
    "process_id": "returned 1 values for 3 completions",
    "one_more": "returned 4 values for 3 completions",
    "one_number": "returned a single float instead of a list",
    "one_array": "returned a single ndarray instead of a list",
    "no_return": r"returned None instead of a list \(is a `return` missing\?\)",
    "by_key": "returned a dict with the keys 'accuracy', 'format', 'length', whose values have "
    "no order",
    "digits": "returned a str instead of a list",
    "unordered": "returned a set instead of a list",
    "never_awaited": "returned an asynchronous generator, whose values nobody awaits",
}


@pytest.mark.parametrize("function", FORMS)
def test_what_holds_no_list_of_grades_is_an_error_at_once(function, caplog):
    """No completion is to blame, and no other one mends it: it is not graded again one by one."""
    with _open(function) as rewards, pytest.raises(RewardError, match=FORMS[function]) as raised:
        _score(rewards, ["a", "bb", "ccc"])
    message = str(raised.value)
    assert (
        message.startswith(f"reward '{function}' ({GRADERS}:{function}) returned")
        and "\n" not in message
    )
    assert (
        "a list with one number or None per completion" in message and "batched: false" in message
    )
    assert not [
        record for record in caplog.records if "call with the whole batch" in record.getMessage()
    ]


@pytest.mark.parametrize("function", ["process_id", "generated"])
def test_functions_of_single_rows_and_generators(function):
    with _open(function, batched=False) as rewards:
        assert np.isfinite(_score(rewards, ["a", "bb", "ccc"]).total).all()
    if function == "generated":
        with _open(function) as rewards:
            assert _score(rewards, ["a", "bb", "ccc"]).total.tolist() == [1.0, 2.0, 3.0]


def test_a_wrong_form_of_a_single_row_is_its_error():
    with _open("by_key", batched=False) as rewards:
        scores = _score(rewards, ["a", "bb"])
    assert (
        scores.failures == {"by_key/error": 2}
        and "returned a dict with the keys" in scores.messages["by_key/error"]
    )


def test_state_is_in_one_process_for_the_whole_run(by_word_and_counter):
    totals = [_score(by_word_and_counter, ["x"] * 70).by_name["counter"] for _ in range(4)]
    assert [set(values.tolist()) for values in totals] == [{1.0}, {2.0}, {3.0}, {4.0}]


def test_other_functions_faults_do_not_end_the_process_that_holds_state(by_word_and_counter):
    before = _score(by_word_and_counter, ["x"] * 4).by_name["counter"][0]
    scores = _score(by_word_and_counter, ["exit", "hang", "x"])
    assert scores.failures == {"by_word/crash": 1, "by_word/timeout": 1}
    assert scores.by_name["counter"].tolist() == [before + 1] * 3


def test_an_exception_does_not_lose_the_state(by_word_and_counter):
    """The call with all, four calls alone and one with the three that are left: six later."""
    before = _score(by_word_and_counter, ["x"] * 4).by_name["counter"][0]
    scores = _score(by_word_and_counter, ["x", "raise", "x", "x"])
    np.testing.assert_array_equal(
        scores.by_name["counter"], [before + 6, NAN, before + 6, before + 6]
    )


@pytest.fixture(scope="module")
def by_word_and_counter():
    configs = [
        RewardConfig(function=f"{GRADERS}:{name}", weight=0.5) for name in ("by_word", "counter")
    ]
    with make_rewards(configs, PoolConfig(timeout=0.3, workers=1)) as rewards:
        yield rewards


def test_what_trl_passes_besides():
    with _open("told") as rewards:
        state = TrainerState(global_step=7, max_steps=2, epoch=0.5)
        scores = _score(rewards, ["a", "bcd"], state=state)
        assert scores.total.tolist() == [207.0, 207.0]
        assert scores.extra == {
            "shout": ["A", "BCD"],
            "size": [1.0, 3.0],
            "told/reward": ["its own"] * 2,
        }
        assert scores.metrics == {"told/length": 2.0}
        # after a fault the innocent ones are called together again, and that is what is logged
        scores = _score(rewards, ["a", "raise", "bcd"])
        assert scores.extra["shout"] == ["A", None, "BCD"] and scores.metrics == {
            "told/length": 2.0
        }
        assert scores.total[[0, 2]].tolist() == [0.0, 0.0] and scores.failures == {"told/error": 1}


def test_what_is_logged_completion_by_completion_is_put_together():
    with _open("told", batched=False) as rewards:
        scores = _score(rewards, ["a", "bcd", "raise", "ef"])
    assert scores.extra["size"] == [1.0, 3.0, None, 2.0] and scores.metrics == {"told/length": 2.0}


def test_two_functions_that_log_the_same_column():
    configs = [RewardConfig(function=f"{GRADERS}:told", name=name) for name in ("one", "two")]
    with make_rewards(configs, PoolConfig(workers=1), reserved=COMPLETION_COLUMNS) as rewards:
        scores = _score(rewards, ["a"] * 2)
    assert sorted(scores.extra) == sorted(
        f"{label}/{name}" for label in ("one", "two") for name in ("shout", "size", "reward")
    )
    assert scores.metrics == {"one/length": 1.0, "two/length": 1.0}


def test_what_cannot_be_kept_of_a_log_is_said(caplog):
    with _open("logs_badly") as rewards:
        scores = _score(rewards, ["a", "b"])
        _score(rewards, ["a", "b"])
    assert scores.total.tolist() == [1.0, 1.0] and scores.extra == {} and scores.metrics == {}
    told = [record.getMessage() for record in caplog.records]
    assert (
        told.count(
            "reward logs_badly: log_extra('short', ..) got 1 values for 2 completions: left out"
        )
        == 1
    )
    assert (
        told.count("reward logs_badly: log_metric('nan', ..) got no finite number: left out") == 1
    )


def test_async_functions_get_the_batch_and_keep_their_event_loop():
    with _open("on_one_loop", timeout=5.0) as rewards:
        loops = {value for _ in range(3) for value in _score(rewards, ["a", "b"]).total.tolist()}
    assert len(loops) == 1


def test_verls_signature():
    columns = {
        "ground_truth": ["a", "b"],
        "data_source": ["s", "t"],
        "extra_info": [{"index": 1}, {"index": 2}],
        "other": [1, 2],
    }
    with _open("compute_score", options={"bonus": 0.5}) as rewards:
        scores = _score(rewards, ["a", "c"], columns)
        chat = [[{"role": "assistant", "content": "b"}]] * 2
        assert _score(rewards, chat, columns).total.tolist() == [0.5, 1.5]
        with pytest.raises(
            ValueError, match="reward 'compute_score' needs a column 'ground_truth'"
        ):
            _score(rewards, ["a"], {"answer": ["a"]})
    assert scores.total.tolist() == [1.5, 0.5] and scores.extra == {"source": ["s/1", "t/2"]}


def test_built_ins_are_not_called_with_batches():
    with pytest.raises(
        ValueError,
        match="rewards.batched true of 'math': built-ins grade each completion by itself",
    ):
        make_rewards([RewardConfig(function="math", batched=True)])


@pytest.mark.slow
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("function", ["by_word", "by_word_async"])
def test_a_function_of_ones_own_that_is_slow(function, batched):
    for on_timeout, value, kind in (("none", NAN, "timeout"), ("wrong", 0.0, "slow")):
        with _open(function, timeout=0.3, on_timeout=on_timeout, batched=batched) as rewards:
            scores = _score(rewards, ["abc", "sleeps" if function == "by_word_async" else "hang"])
        np.testing.assert_array_equal(scores.total, [3.0, value])
        assert scores.failures == {f"{function}/{kind}": 1} and not scores.spoiled[0]
