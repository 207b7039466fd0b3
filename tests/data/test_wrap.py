"""What options put around prompts: the same for every kind, the split unchanged."""

import json

import pytest

from rlhf_jax.data import DataConfig, DataError, load_examples

ROWS = [
    {"prompt": f"{n}+1?", "completion": str(n + 1), "chosen": str(n + 1), "rejected": "0"}
    for n in range(20)
]
CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "1+1?"},
]


@pytest.fixture
def path(tmp_path) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "rows.jsonl")


def one(path: str, kind, **options):
    return load_examples(DataConfig(path=path, **options), kind=kind).rows[0]


@pytest.mark.parametrize("kind", ["text", "pairs", "prompts"])
def test_template(path, kind):
    row = one(path, kind, prompt_template="Q: {prompt}\n{x} A:")
    assert row.prompt == "Q: 0+1?\n{x} A:"


def test_template_in_a_conversation_is_around_the_last_question(tmp_path):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": CHAT}))
    row = one(str(tmp_path / "chat.jsonl"), "prompts", prompt_template="<{prompt}>")
    assert [message["content"] for message in row.prompt] == ["hi", "yes?", "<1+1?>"]


def test_conversation_of_plain_rows(path):
    user = [{"role": "user", "content": "0+1?"}]
    right, wrong = [{"role": "assistant", "content": "1"}], [{"role": "assistant", "content": "0"}]
    text = one(path, "text", conversational=True)
    assert (text.prompt, text.completion) == (user, right)
    pair = one(path, "pairs", conversational=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == (user, right, wrong)
    system = {"role": "system", "content": "Sum."}
    asked = one(
        path, "prompts", conversational=True, system_prompt="Sum.", prompt_template="{prompt}!"
    )
    assert asked.prompt == [system, {"role": "user", "content": "0+1?!"}]


def test_system_prompt_is_for_conversations_without_one(tmp_path):
    system = {"role": "system", "content": "own"}
    rows = [{"prompt": CHAT}, {"prompt": [system, *CHAT]}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(tmp_path / "chat.jsonl"), system_prompt="Sum.")
    first, second = load_examples(config, kind="prompts").rows
    assert first.prompt == [{"role": "system", "content": "Sum."}, *CHAT]
    assert second.prompt == [system, *CHAT]


def test_the_split_does_not_depend_on_what_is_around(path):
    plain, wrapped = (
        load_examples(DataConfig(path=path, eval_size=5, **options), kind=kind, split="eval").rows
        for kind, options in (
            ("text", {}),
            ("prompts", {"prompt_template": "Q: {prompt}", "conversational": True}),
        )
    )
    assert [row.where for row in plain] == [row.where for row in wrapped]
    assert [row.prompt[0]["content"] for row in wrapped] == [f"Q: {row.prompt}" for row in plain]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"text": "a b"},
            {"prompt_template": "{prompt}!"},
            "a bare text has no prompt for data.prompt_template, data.conver",
        ),
        (
            {"text": "a b"},
            {"conversational": True},
            "a bare text has no prompt for data.prompt_template, data.conversational",
        ),
        (
            ROWS[0],
            {"system_prompt": "x"},
            "data.system_prompt needs conversations: set data.conversational true",
        ),
        (
            {"prompt": "\n\nHuman: a\n\nAssistant:", "completion": " b"},
            {"conversational": True},
            "the prompt is a transcript with turns of its own, no single question: set "
            "data.transcript true",
        ),
        (
            {
                "prompt": [{"role": "system", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            {"prompt_template": "{prompt}!"},
            "data.prompt_template needs a user message, the prompt has none",
        ),
    ],
)
def test_errors(tmp_path, row, options, message):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError) as error:
        one(str(tmp_path / "rows.jsonl"), "text", **options)
    assert "rows.jsonl:1: " in str(error.value) and message in str(error.value)


def test_a_template_without_a_place():
    with pytest.raises(
        DataError, match=r"^data.prompt_template 'Q: ' has no \{prompt\}, the place of the prompt$"
    ):
        DataConfig(path="x", prompt_template="Q: ")
