"""When outputs and results are the same."""

import pytest

from rlhf_jax.rewards.comparison import same_output, same_value


@pytest.mark.parametrize(
    ("got", "wanted", "equal"),
    [
        ("1 2\n3", "1  2 3\n", True),
        ("1.0", "1", True),
        ("2.50", "2.5", True),
        ("0.333333", "0.333333333333", True),
        ("0.3334", "0.333333333333", False),
        ("1e3", "1000", True),
        ("1000001", "1000000", False),
        ("1000000.5", "1000000", False),
        ("1000000007", "1000000008", False),
        ("100000000000000000001", "100000000000000000000", False),
        ("123456789.12345", "123456789.12344", True),
        ("0.9999999999", "1", True),
        ("007", "7", True),
        ("101", "000101", False),
        ("000101", "000101", True),
        ("5550100", "05550100", False),
        ("0.5", "00.5", False),
        ("0", "0000", False),
        ("+1", "+01", False),
        ("0.50", "0.5", True),
        ("0", "0.0", True),
        ("-0.0", "0", True),
        ("1_000", "1000", False),
        ("nan", "nan", True),
        ("inf", "1e999", False),
        ("NaN", "nan", False),
        ("yes", "YES", False),
        ("1", "1 1", False),
        ("", "", True),
        ("٣", "3", False),
        ("1" * 5000, "1" * 5000, True),
        ("1" * 5000, "2" * 5000, False),
    ],
)
def test_outputs(got, wanted, equal):
    assert same_output(got, wanted, 1e-6) is equal
    assert same_output(got, wanted, 0.0) is (got.split() == wanted.split())


def _int(value):
    return {"int": hex(value)}


@pytest.mark.parametrize(
    ("got", "wanted", "equal"),
    [
        (_int(3), 3, True),
        (_int(3), 3.0000000001, True),
        (_int(1000001), 1000000, False),
        (2.0, 2, True),
        (0.30000000000000004, 0.3, True),
        (0.3001, 0.3, False),
        (float("nan"), float("nan"), True),
        (float("inf"), 1e308, False),
        (True, 1, True),
        ([_int(1), [_int(2)]], [1, [2]], True),
        ([_int(1)], 1, False),
        ([], [], True),
        ([_int(1)], [1, 2], False),
        ({"dict": [[_int(1), "a"]]}, {"1": "a"}, True),
        (
            {"dict": [[True, "a"], [None, "b"], [1.5, "c"]]},
            {"true": "a", "null": "b", "1.5": "c"},
            True,
        ),
        ({"dict": [[_int(1), "a"], ["1", "b"]]}, {"1": "a", "2": "b"}, False),
        ({"dict": [[[_int(1)], "a"]]}, {"[1]": "a"}, False),
        ({"dict": []}, [], False),
        ({"other": "set"}, [1], False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ("a", "a", True),
    ],
)
def test_results(got, wanted, equal):
    assert same_value(got, wanted, 1e-6) is equal


@pytest.mark.parametrize(
    "got",
    [
        {},
        {"int": 3},
        {"int": "zz"},
        {"dict": 3},
        {"dict": [1]},
        {"dict": [[1]]},
        {"a": 1, "b": 2},
        {"int": "0x1" * 10},
    ],
)
def test_forged_results_are_wrong(got):
    assert same_value(got, 1, 1e-6) is False
    assert same_value([got], [1], 1e-6) is False


def test_deep_results_are_compared_or_wrong():
    deep = wanted = 1.0
    for _ in range(100_000):
        deep, wanted = [deep], [wanted]
    assert same_value(deep, wanted, 1e-6) is False
