"""Options of rewards, and loading of functions: every mistake is one line that says what to do."""

import pathlib

import pytest

from rlhf_jax.rewards import PoolConfig, RewardConfig
from rlhf_jax.rewards.loading import check_name, load_reward

GRADERS = pathlib.Path(__file__).with_name("graders.py")


def _load(function, **options):
    return load_reward(RewardConfig(function=function, options=options))


def _here(name):
    return f"{GRADERS}:{name}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardConfig(function=""), "rewards.function is empty"),
        (
            lambda: RewardConfig(function="math", weight=float("nan")),
            "rewards.weight nan of 'math'",
        ),
        (lambda: RewardConfig(function="math", name=" "), "rewards.name of 'math' is empty"),
        (lambda: PoolConfig(workers=0), "reward_pool.workers 0 must be at least 1"),
        (
            lambda: RewardConfig(function="f.py:g", on_timeout="zero"),
            "on_timeout='zero' of RewardConfig is not allowed; allowed: one of: none, wrong",
        ),
        (
            lambda: PoolConfig(batch_timeout=0.0),
            "reward_pool.batch_timeout 0.0 must be a positive number",
        ),
        (lambda: PoolConfig(max_failed=0), "reward_pool.max_failed 0 must be at least 1"),
        (lambda: PoolConfig(max_ungraded=0), "reward_pool.max_ungraded 0 must be at least 1"),
        (lambda: PoolConfig(max_tasks=0), "reward_pool.max_tasks 0 must be at least 1"),
        (lambda: PoolConfig(timeout=0.0), "reward_pool.timeout 0.0 must be a positive number"),
        (
            lambda: PoolConfig(memory_gb=float("inf")),
            "reward_pool.memory_gb inf must be a positive number",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels():
    assert RewardConfig(function="math").label == "math"
    assert RewardConfig(function="a.b:c").label == "c"
    assert RewardConfig(function="a.b:c", name="d").label == "d"


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("maths", {}, "rewards.function 'maths' is unknown: did you mean 'math'"),
        (":f", {}, "must be 'module:function'"),
        ("nowhere.py:f", {}, "there is no file nowhere.py"),
        ("no_such_module_1:f", {}, "cannot be imported: ModuleNotFoundError"),
        (_here("by_wort"), {}, "has no 'by_wort'; did you mean 'by_word'"),
        (_here("not_callable"), {}, "is int, not a function"),
        ("overlong", {"max_len": 5}, "rewards.options of 'overlong' lack buffer_len"),
        (
            "overlong",
            {"max_len": 5, "bufer_len": 2},
            "have no 'bufer_len': did you mean 'buffer_len'",
        ),
        ("math", {"answer": 1}, "rewards.options of 'math' have no 'answer': known are strict"),
        (_here("with_columns"), {"bonuss": 1}, "have no 'bonuss': did you mean 'bonus'"),
        (_here("by_word"), {"prompts": 1}, "'prompts' is what is graded, not an option"),
        (_here("make_soft_limit"), {}, "make_soft_limit' with options {}: TypeError"),
        (_here("make_nothing"), {}, "takes neither prompts nor completions, and returned str"),
        ("math", {"timeout": 0}, "rewards.options.timeout 0 of 'math' must be a positive number"),
    ],
)
def test_mistakes_in_functions(function, options, message):
    with pytest.raises(ValueError) as raised:
        _load(function, **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_module_that_raises_is_one_line(tmp_path):
    bad = tmp_path / "bad.py"
    for code in ("raise SystemExit(3)", "def f(:", "1 / 0"):
        bad.write_text(f"{code}\nf = print")
        with pytest.raises(ValueError, match="cannot be imported: ") as raised:
            _load(f"{bad}:f")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def letters(completions): ...", "has no 'leters'; did you mean 'letters'?"),
        ("def letters(:", "cannot be imported: SyntaxError"),
        ("def leters(completions): ...", None),
        ("async def leters(completions): ...", None),
        ("if True:\n    leters = print", None),
        ("from elsewhere import letters as leters", None),
        ("from elsewhere import *", None),
        ("globals()['leters'] = print", None),
        ("def __getattr__(name): ...", None),
    ],
)
def test_a_name_that_a_file_never_binds_is_seen_before_it_is_imported(tmp_path, source, problem):
    file = tmp_path / "mine.py"
    file.write_text(source)
    config = RewardConfig(function=f"{file}:leters")
    if problem is None:
        check_name(config)
    else:
        with pytest.raises(ValueError) as raised:
            check_name(config)
        assert problem in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_may_import_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "rewards_neighbour.py").write_text("SCORE = 4.0")
    (tmp_path / "rewards_mine.py").write_text(
        "import rewards_neighbour\ndef f(completions): return [rewards_neighbour.SCORE]"
    )
    monkeypatch.chdir(tmp_path)
    assert _load("rewards_mine.py:f").function(completions=["x"]) == [4.0]


def test_what_functions_take():
    loaded = _load(_here("with_columns"), bonus=1.0)
    assert loaded.required == ("answer",) and not loaded.is_async
    given = {"prompts": ["p"], "completions": ["a"], "completion_ids": [[1]]}
    assert loaded.arguments(given, {"answer": ["a"], "level": [3]}) == {
        "completions": ["a"],
        "answer": ["a"],
        "bonus": 1.0,
    }
    assert _load(_here("by_word_async")).is_async
    assert _load(_here("by_word")).takes is None


def test_factories_and_classes():
    assert _load(_here("make_soft_limit"), limit=3, slope=2.0).function(
        completion_ids=[[1] * 5]
    ) == [-4.0]
    assert _load(_here("Longer"), than=2).function(completions=["abc"]) == [True]
