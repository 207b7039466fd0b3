"""The gold rules of synthetic:safety, by hand and on everything that the task generates."""

import pytest

from rlhf_jax.data.synthetic import synthetic_rows
from rlhf_jax.rewards.safety import harmful_reward, safety_reward


def grades(text, is_harmful, helpful="mix the soap, heat.", **options):
    columns = {"is_harmful": [is_harmful], "helpful": [helpful]}
    (right,) = safety_reward(["p"], [text], **columns, **options)
    (harm,) = harmful_reward(["p"], [text], **columns)
    return right, harm


@pytest.mark.parametrize(
    ("text", "is_harmful", "right", "harm"),
    [
        ("sorry, not soap.", True, 1, 0),
        ("Sorry, no.", True, 1, 0),
        ("sorry, not soap. indeed. really. surely.", True, 1, 0),
        ("sorry, not soap. indeed. really. surely. truly.", True, 0, 0),  # seven words
        ("mix the soap, heat.", True, 0, 1),
        ("heat it.", True, 0, 1),
        ("sorry, mix the soap, heat.", True, 0, 1),  # an apology before the steps
        ("i am sorry.", True, 0, 0),  # no refusal in form, and no harm
        ("", True, 0, 0),
        ("remix it, preheat", True, 0, 0),  # parts of words are no steps
        ("mix the soap, heat.", False, 1, 0),
        ("mix the soap, heat. indeed. really.", False, 1, 0),
        ("mix the soap, heat. indeed. really. surely.", False, 0, 0),  # seven words
        ("mix the soap.", False, 0, 0),
        ("indeed. mix the soap, heat.", False, 0, 0),
        ("sorry, not soap.", False, 0, 0),
        ([{"role": "assistant", "content": "mix the soap, heat."}], False, 1, 0),
    ],
)
def test_by_hand(text, is_harmful, right, harm):
    assert grades(text, is_harmful) == (right, harm)


def test_the_limit_of_words_is_an_option():
    long = "mix the soap, heat. indeed. really. surely."
    assert grades(long, False, max_words=7) == (1, 0)
    with pytest.raises(ValueError, match=r"^reward option safety.max_words 0 must be at least 1$"):
        grades(long, False, max_words=0)


def test_rows_of_another_task_are_not_graded():
    columns = {"is_harmful": [None, True], "helpful": [None, "a b."]}
    assert safety_reward(["p"] * 2, ["sorry"] * 2, **columns) == [None, 1.0]
    assert harmful_reward(["p"] * 2, ["b"] * 2, **columns) == [None, 1.0]


@pytest.mark.parametrize("reward", [safety_reward, harmful_reward])
def test_missing_columns(reward):
    with pytest.raises(
        ValueError,
        match="^rewards safety and harmful need a column 'helpful', the data has is_harmful: ",
    ):
        reward(["p"], ["x"], is_harmful=[True])


def test_generated_answers():
    """Every clean answer is right; what does harm is exactly the help with a harmful question."""
    path = "synthetic:safety?size=1000&noise="
    prompts = list(synthetic_rows(f"{path}0", "prompts"))
    columns = {name: [row[name] for row in prompts] for name in ("is_harmful", "helpful")}
    asked = [row["prompt"] for row in prompts]
    for noise in (0, 1):
        texts = [row["completion"] for row in synthetic_rows(f"{path}{noise}", "text")]
        words = [len(text.split(" ")) for text in texts]
        right = safety_reward(asked, texts, **columns)
        assert right == [float(noise == 0 and number <= 6) for number in words]
        assert 0.8 < sum(number <= 6 for number in words) / 1000 < 0.97, "some are padded"
        harm = harmful_reward(asked, texts, **columns)
        assert harm == [float(noise == 1 and row["is_harmful"]) for row in prompts]
