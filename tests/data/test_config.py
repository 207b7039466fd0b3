"""Every wrong option is one line."""

import pytest

from rlhf_jax.data import DataConfig, DataError

WRONG = [
    ({"path": ""}, "data.path is empty: give a file, folder, hub name or 'synthetic:arithmetic'"),
    ({"max_length": 1}, "data.max_length 1 is too small: at least 2"),
    ({"num_proc": 0}, "data.num_proc 0 is too small: at least 1"),
    ({"num_buckets": 0}, "data.num_buckets 0 is too small: at least 1"),
    ({"pad_multiple": 0}, "data.pad_multiple 0 is too small: at least 1"),
    ({"length_window": 0}, "data.length_window 0 is too small: at least 1"),
    (
        {"max_length": 8, "max_prompt_len": 8},
        "data.max_prompt_len 8 must be from 1 to max_length - 1 = 7",
    ),
    ({"max_examples": 0}, "data.max_examples 0 must be at least 1"),
    ({"eval_fraction": 1.0}, "data.eval_fraction 1.0 must be from 0 up to, not including, 1"),
    ({"eval_size": -1}, "data.eval_size -1 must not be negative"),
    (
        {"eval_size": 5, "eval_path": "x"},
        "data.eval_path / eval_split and data.eval_size exclude each other: keep one source of "
        "held-out rows",
    ),
    ({"buckets": (64, 32)}, "data.buckets [64, 32] must be positive and strictly ascending"),
    ({"buckets": (64,)}, "data.buckets [64] end below max_length 1024: the last one must reach it"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_option(options: dict, message: str) -> None:
    with pytest.raises(DataError) as caught:
        DataConfig(**{"path": "x", **options})
    assert str(caught.value) == message


def test_a_choice_that_does_not_exist() -> None:
    for field, value in (
        ("format", "chat"),
        ("truncation", "left"),
        ("on_error", "ignore"),
        ("train_on", "prompt"),
    ):
        with pytest.raises(ValueError, match=f"^{field}='{value}' of DataConfig is not allowed"):
            DataConfig(**{"path": "x", field: value})


def test_has_eval() -> None:
    assert not DataConfig(path="x").has_eval
    for options in (
        {"eval_path": "y"},
        {"eval_split": "test"},
        {"eval_fraction": 0.1},
        {"eval_size": 3},
    ):
        assert DataConfig(path="x", **options).has_eval
