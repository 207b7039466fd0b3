"""Generated tasks: reproducible, right where they must be, wrong where they should be."""

import pytest

from rlhf_jax.data import DataConfig, DataError, load_examples
from rlhf_jax.data.synthetic import synthetic_rows


def total(prompt: str) -> str:
    left, right = prompt.removesuffix("=").split("+")
    return str(int(left) + int(right))


def test_the_three_readings_share_their_prompts() -> None:
    path = "synthetic:arithmetic?size=500&max_operand=30&noise=0.25&seed=3"
    text, pairs, prompts = (list(synthetic_rows(path, kind)) for kind in ("text", "pairs", "prompts"))
    assert [row["prompt"] for row in text] == [row["prompt"] for row in pairs] == [row["prompt"] for row in prompts]
    for row in pairs:
        assert row["chosen"] == total(row["prompt"]) != row["rejected"]
    assert all(row["answer"] == total(row["prompt"]) for row in prompts)
    wrong = [row["completion"] != total(row["prompt"]) for row in text]
    assert 0.18 < sum(wrong) / 500 < 0.32
    operands = [int(part) for row in text for part in row["prompt"][:-1].split("+")]
    assert min(operands) == 0 and max(operands) == 30


def test_reproducible_from_the_seed() -> None:
    one, two, three = (list(synthetic_rows(f"synthetic:arithmetic?seed={seed}", "pairs")) for seed in (0, 0, 1))
    assert one == two != three
    assert len(one) == 2000


@pytest.mark.parametrize("noise", [0, 1])
def test_noise_bounds(noise: int) -> None:
    rows = list(synthetic_rows(f"synthetic:arithmetic?size=100&noise={noise}", "text"))
    assert sum(row["completion"] != total(row["prompt"]) for row in rows) == 100 * noise


def test_read_as_data() -> None:
    config = DataConfig(path="synthetic:arithmetic?size=200", eval_size=20)
    train, held_out = (load_examples(config, kind="pairs", split=split).rows for split in ("train", "eval"))
    assert len(train) + len(held_out) == 200 and len(held_out) >= 20
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    assert load_examples(config, kind="prompts").rows[0].columns.keys() == {"answer"}


WRONG = [
    ("synthetic:chess", "synthetic task 'chess' is unknown: known are arithmetic"),
    ("synthetic:arithmetic?sise=3", "synthetic:arithmetic has no option 'sise': options are size, max_operand, noise, seed"),
    ("synthetic:arithmetic?size=many", "synthetic:arithmetic option size='many' is not a valid int"),
    ("synthetic:arithmetic?noise=", "synthetic:arithmetic option noise='' is not a valid float"),
    ("synthetic:arithmetic?noise=2", "synthetic:arithmetic needs noise from 0 to 1, got 2.0"),
    ("synthetic:arithmetic?size=0", "synthetic:arithmetic needs size and max_operand of at least 1, got 0, 49"),
]


@pytest.mark.parametrize(("path", "message"), WRONG)
def test_errors(path: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="text")
    assert str(caught.value) == message
