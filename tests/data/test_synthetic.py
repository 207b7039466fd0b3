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
    assert {len(row["rejected"]) for row in pairs} <= {1, 2}


def operands(path: str) -> list[tuple[int, int]]:
    pairs = [row["prompt"][:-1].split("+") for row in synthetic_rows(path, "text")]
    return [(int(left), int(right)) for left, right in pairs]


def test_operands() -> None:
    plain = operands("synthetic:arithmetic?size=3000&min_operand=10")
    assert min(map(min, plain)) == 10 and max(map(max, plain)) <= 89  # 99 + 10 carries
    assert all(left % 10 + right % 10 <= 9 and left // 10 + right // 10 <= 9 for left, right in plain)
    carrying = operands("synthetic:arithmetic?size=3000&max_operand=30&carry=true")
    assert min(map(min, carrying)) == 0 and max(map(max, carrying)) == 30
    assert any(left % 10 + right % 10 > 9 for left, right in carrying)


def test_mistakes_are_one_digit() -> None:
    for row in synthetic_rows("synthetic:arithmetic?size=500&carry=true", "pairs"):
        right, wrong = row["chosen"], row["rejected"]
        assert len(right) == len(wrong) and sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
        assert str(int(wrong)) == wrong


def test_reproducible_from_the_seed() -> None:
    one, two, three = (list(synthetic_rows(f"synthetic:arithmetic?seed={seed}", "pairs")) for seed in (0, 0, 1))
    assert one == two != three
    assert len(one) == 4000


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
    ("synthetic:chess", "synthetic task 'chess' is unknown: known are arithmetic, countdown, sorting"),
    (
        "synthetic:arithmetic?sise=3",
        "synthetic:arithmetic has no option 'sise': options are size, min_operand, max_operand, digits, terms, ops, "
        "carry, noise, seed",
    ),
    ("synthetic:arithmetic?size=many", "synthetic:arithmetic option size='many' is not a valid int"),
    ("synthetic:arithmetic?noise=", "synthetic:arithmetic option noise='' is not a valid float"),
    ("synthetic:arithmetic?noise=2", "synthetic:arithmetic needs noise from 0 to 1, got 2.0"),
    ("synthetic:arithmetic?size=0", "synthetic:arithmetic needs size of at least 1, got 0"),
    ("synthetic:arithmetic?carry=1", "synthetic:arithmetic option carry='1' is not a valid bool"),
    (
        "synthetic:arithmetic?min_operand=9&max_operand=9",
        "synthetic:arithmetic needs 0 <= min_operand < max_operand, got 9 and 9",
    ),
    ("synthetic:arithmetic?min_operand=55", "synthetic:arithmetic with min_operand=55 needs carry=true"),
]


@pytest.mark.parametrize(("path", "message"), WRONG)
def test_errors(path: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="text")
    assert str(caught.value) == message
