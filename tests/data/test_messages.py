"""Messages as people store them: null keys, tool calls, ShareGPT, tools, template variables."""

import json

import datasets
import pytest

from rlhf_jax.data import BadRow, DataConfig, PairExample, PromptExample, TextExample, load_examples
from rlhf_jax.data.arrow_rows import without_filling
from rlhf_jax.data.formats import make_example
from rlhf_jax.data.kinds import TokenExample
from rlhf_jax.data.messages import ChatOptions, read_chat_options, read_conversation

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "No"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def make(columns: dict, form: str, kind: str):
    return make_example(columns, form, kind, "f:1")


def test_null_keys_are_dropped() -> None:
    filled = [{**USER, "tool_calls": None, "name": None}, {**GOOD, "tool_calls": [], "name": "x"}]
    assert read_conversation(filled, "messages") == [USER, {**GOOD, "name": "x"}]


def test_a_call_needs_no_content() -> None:
    for content in ({}, {"content": None}):
        [message] = read_conversation(
            [{"role": "assistant", "tool_calls": [CALL], **content}], "messages"
        )
        assert message == {"role": "assistant", "tool_calls": [CALL], "content": None}
    [message] = read_conversation(
        [{"role": "assistant", "tool_calls": [CALL], "content": ""}], "messages"
    )
    assert message["content"] == ""


SHAREGPT = [
    {"from": "system", "value": "Add."},
    {"from": "human", "value": "1+2?"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "Three."},
]
OPENAI = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "tool_calls": [CALL], "content": None},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "Three."},
]


@pytest.mark.parametrize("column", ["conversations", "messages", "conversation"])
def test_sharegpt(column: str) -> None:
    for turns in (SHAREGPT, [{**turn, "role": None, "content": None} for turn in SHAREGPT]):
        assert make({column: turns}, "messages", "text") == TextExample(
            OPENAI[:2], OPENAI[2:], "f:1"
        )
    assert make({column: SHAREGPT}, "messages", "prompts").prompt == OPENAI[:-1]
    assert make({column: OPENAI}, "messages", "text") == TextExample(OPENAI[:2], OPENAI[2:], "f:1")


def test_sharegpt_whose_keys_alone_were_renamed() -> None:
    renamed = [{"role": "human", "content": "Hi"}, {"role": "gpt", "content": "Hello"}]
    assert read_conversation(renamed, "messages") == [USER, GOOD]


def test_sharegpt_with_a_system_column_and_preferences() -> None:
    human, gpt = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
    system = {"role": "system", "content": "Be kind."}
    example = make({"conversations": [human, gpt], "system": "Be kind."}, "messages", "text")
    assert example == TextExample([system, USER], [GOOD], "f:1")
    assert make(
        {"messages": [USER, GOOD], "system": "Be kind."}, "messages", "text"
    ) == TextExample([USER], [GOOD], "f:1")
    pair = {"conversations": [human], "chosen": gpt, "rejected": {"from": "gpt", "value": "No"}}
    assert make(pair, "preference", "pairs") == PairExample([USER], [GOOD], [BAD], None, "f:1")


def test_calls_in_preferences() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row = {"prompt": [USER], "chosen": [call], "rejected": [BAD], "tools": [TOOL]}
    assert make(row, "preference", "pairs") == PairExample(
        [USER], [call], [BAD], None, "f:1", ChatOptions([TOOL])
    )


BAD_MESSAGES = [
    (
        [{"from": "narrator", "value": "x"}],
        "wrong type",
        "column 'm', message 1 is from 'narrator', which is none of human, ",
    ),
    (
        [{"from": "function_call", "value": "add(1)"}],
        "wrong type",
        "message 1 is a function call that is not JSON",
    ),
    (
        [{"from": "function_call", "value": "[1]"}],
        "wrong type",
        "message 1 is a function call without a name",
    ),
    ([{"from": "gpt", "value": ""}], "empty text", "message 1 is an empty answer"),
    ([{"from": "human"}], "null", "message 1 has no content"),
    (
        [{"role": "assistant", "content": None, "tool_calls": None}],
        "null",
        "message 1 has no content",
    ),
    ([{"role": "assistant", "content": " "}], "empty text", "message 1 is an empty answer"),
    (
        [{"role": "assistant", "tool_calls": "add"}],
        "wrong type",
        "message 1 has tool_calls that are no list of calls",
    ),
    (
        [{"role": "assistant", "tool_calls": ["add"]}],
        "wrong type",
        "message 1 has tool_calls that are no list of calls",
    ),
]


@pytest.mark.parametrize(("value", "reason", "detail"), BAD_MESSAGES)
def test_bad_messages(value: list, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_conversation(value, "m")
    assert caught.value.reason == reason and detail in caught.value.detail


OPTIONS = [
    ({}, ChatOptions()),
    ({"tools": None, "chat_template_kwargs": None}, ChatOptions()),
    ({"tools": [], "chat_template_kwargs": {}}, ChatOptions()),
    ({"tools": "", "chat_template_kwargs": " "}, ChatOptions()),  # CSV
    ({"tools": [TOOL]}, ChatOptions([TOOL])),
    ({"tools": json.dumps([TOOL])}, ChatOptions([TOOL])),
    ({"tools": [json.dumps(TOOL)]}, ChatOptions([TOOL])),
    (
        {"chat_template_kwargs": {"enable_thinking": False, "other": None}},
        ChatOptions(None, {"enable_thinking": False}),
    ),
    (
        {"chat_template_kwargs": '{"enable_thinking": false}'},
        ChatOptions(None, {"enable_thinking": False}),
    ),
]


@pytest.mark.parametrize(("columns", "expected"), OPTIONS)
def test_chat_options(columns: dict, expected: ChatOptions) -> None:
    assert read_chat_options(columns) == expected
    assert make({"messages": [USER, GOOD], **columns}, "messages", "text").chat == expected
    assert make({"prompt": [USER], **columns}, "prompt", "prompts") == PromptExample(
        [USER], columns, "f:1", expected
    )


@pytest.mark.parametrize(
    ("columns", "detail"),
    [
        ({"tools": "add, sub"}, "column 'tools' is text that is not JSON"),
        ({"tools": {"name": "add"}}, "column 'tools' is dict, a list of schemas is needed"),
        ({"tools": [1]}, "column 'tools' holds something that is not a function schema"),
        (
            {"chat_template_kwargs": [1]},
            "column 'chat_template_kwargs' is list, an object is needed",
        ),
        ({"chat_template_kwargs": "no"}, "column 'chat_template_kwargs' is text that is not JSON"),
    ],
)
def test_bad_chat_options(columns: dict, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_chat_options(columns)
    assert (caught.value.reason, caught.value.detail) == ("wrong type", detail)


def test_parquet_fills_calls_up_with_null(tmp_path) -> None:
    """Arrow gives both calls the arguments of both; each keeps its own. Others keep nulls."""
    other = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    rows = [
        {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}],
            "extra": {"x": n or None},
        }
        for n, call in enumerate((CALL, other))
    ] + [{"messages": [USER, {**GOOD, "tool_calls": None}], "extra": {"x": 2}}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    config = DataConfig(path=str(tmp_path / "train.parquet"))
    first, second, third = (
        example.completion[0] for example in load_examples(config, kind="text").rows
    )
    assert (first["tool_calls"], second["tool_calls"]) == ([CALL], [other])
    assert third == GOOD
    assert [example.columns["extra"] for example in load_examples(config, kind="prompts").rows][
        0
    ] == {"x": None}


def test_filling_goes_inside_tools_only() -> None:
    row = {
        "tools": [{"function": {"a": None, "b": {"c": None, "d": [1]}}}],
        "reward": {"x": None},
        "tool": None,
    }
    assert without_filling(row) == {
        "tools": [{"function": {"b": {"d": [1]}}}],
        "reward": {"x": None},
        "tool": None,
    }
    assert without_filling({"tools": None}) == {"tools": None}


TOKENS = [
    ({"input_ids": [5, 6, 7]}, ([5, 6, 7], [True, True, True])),
    ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, ([5, 6, 7], [False, True, True])),
    ({"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]}, ([5, 6, 7], [False, False, True])),
    (
        {"input_ids": [5, 6, 7], "assistant_masks": [0, 1, 0], "labels": None},
        ([5, 6, 7], [False, True, False]),
    ),
    (
        {"input_ids": [0, 5, 6], "attention_mask": [0, 1, 1], "labels": [-100, -100, 6]},
        ([5, 6], [False, True]),
    ),
]


@pytest.mark.parametrize(("columns", "expected"), TOKENS)
def test_token_rows(columns: dict, expected: tuple) -> None:
    assert make(columns, "tokens", "text") == TokenExample(*expected, "f:1")


@pytest.mark.parametrize(
    ("columns", "reason", "detail"),
    [
        ({"input_ids": "1 2"}, "wrong type", "column 'input_ids' is not a list of whole numbers"),
        ({"input_ids": [1.5]}, "wrong type", "column 'input_ids' is not a list of whole numbers"),
        ({"input_ids": []}, "empty text", "column 'input_ids' is empty"),
        (
            {"input_ids": [1, 2], "labels": [1]},
            "wrong type",
            "column 'labels' has 1 entries for 2 input_ids",
        ),
        (
            {"input_ids": [1, 2], "labels": [2, 3]},
            "wrong type",
            "column 'labels' holds other ids than 'input_ids'",
        ),
        (
            {"input_ids": [1, 2], "labels": [-100, -100]},
            "no answer",
            "no token of 'input_ids' is to be trained on",
        ),
    ],
)
def test_bad_token_rows(columns: dict, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        make(columns, "tokens", "text")
    assert caught.value.reason == reason and detail in caught.value.detail


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        ("User", "user"),
        ("ASSISTANT", "assistant"),
        (" system", "system"),
        ("assistent", "assistant"),
        ("Human", "user"),
    ],
)
def test_a_misspelt_role_is_named(role: str, meant: str) -> None:
    with pytest.raises(BadRow) as error:
        read_conversation(
            [{"role": "user", "content": "q"}, {"role": role, "content": "a"}], "messages"
        )
    assert (
        error.value.detail
        == f"column 'messages', message 2 has the unknown role {role!r}; did you mean {meant!r}?"
    )


@pytest.mark.parametrize(
    "role",
    ["ipython", "environment", "tool_response", "documents", "context", "function", "critic"],
)
def test_a_role_that_a_template_may_know_passes(role: str) -> None:
    [message] = read_conversation([{"role": role, "content": "a"}], "messages")
    assert message["role"] == role
