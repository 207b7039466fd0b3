"""Column formats: detection per kind, implicit prompts, and what makes a row bad."""

import pytest

from rlhf_jax.data import BadRow, DataConfig, DataError, PairExample, PromptExample, TextExample
from rlhf_jax.data.formats import detect_format, make_example, rename_columns
from rlhf_jax.data.preferences import common_prompt

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "No"}
AUTO = DataConfig(path="x")


def detect(columns: list[str], kind: str, config: DataConfig = AUTO) -> str:
    return detect_format([dict.fromkeys(columns, "x")], kind, config, "data.jsonl")


DETECTED = [
    ("text", ["text"], "text"),
    ("text", ["messages", "id"], "messages"),
    ("text", ["prompt", "completion"], "prompt_completion"),
    ("text", ["prompt", "chosen", "rejected"], "preference"),
    ("text", ["text", "prompt", "completion"], "prompt_completion"),
    ("pairs", ["chosen", "rejected"], "preference"),
    ("prompts", ["prompt", "data_source", "reward_model"], "prompt"),
    ("prompts", ["prompt", "completion"], "prompt_completion"),
    ("prompts", ["chosen", "rejected"], "preference"),
    ("prompts", ["messages"], "messages"),
]


@pytest.mark.parametrize(("kind", "columns", "expected"), DETECTED)
def test_detection(kind: str, columns: list[str], expected: str) -> None:
    assert detect(columns, kind) == expected


def test_detection_goes_by_most_rows() -> None:
    rows = [{"prompt": "x"}, *[{"text": "x"}] * 3, *[{"prompt": "x", "completion": "y"}] * 2]
    assert detect_format(rows, "text", AUTO, "d") == "text"


MISMATCHES = [
    (
        "pairs",
        ["text", "id"],
        AUTO,
        "data.jsonl has the columns text, id; pairs data needs chosen+rejected",
    ),
    (
        "text",
        ["question", "answer"],
        AUTO,
        "data.jsonl has the columns question, answer; text data needs prompt+completion or "
        "messages or chosen+rejected or text",
    ),
    (
        "prompts",
        ["text"],
        AUTO,
        "data.jsonl has the columns text; prompts data needs prompt+completion or chosen+rejected "
        "or messages or prompt",
    ),
    (
        "text",
        ["text"],
        DataConfig(path="x", format="messages"),
        "data.jsonl has the columns text; text data needs messages",
    ),
]


@pytest.mark.parametrize(("kind", "columns", "config", "message"), MISMATCHES)
def test_mismatch_says_found_and_needed(
    kind: str, columns: list[str], config: DataConfig, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        detect(columns, kind, config)
    assert str(caught.value) == message + " (map names with data.columns)"


def test_format_option_that_does_not_fit_the_kind() -> None:
    with pytest.raises(
        DataError, match=r"^data.format 'text' does not give pairs: preference would$"
    ):
        detect(["text"], "pairs", DataConfig(path="x", format="text"))


def make(columns: dict, form: str, kind: str):
    return make_example(columns, form, kind, "f:1")


def test_text_examples() -> None:
    assert make({"text": "abc"}, "text", "text") == TextExample(None, "abc", "f:1")
    assert make({"prompt": "a", "completion": "b"}, "prompt_completion", "text") == TextExample(
        "a", "b", "f:1"
    )
    chat = TextExample([USER], [GOOD], "f:1")
    assert make({"prompt": [USER], "completion": [GOOD]}, "prompt_completion", "text") == chat
    assert make({"prompt": [USER], "completion": "Hello"}, "prompt_completion", "text") == chat
    assert make({"messages": [USER, GOOD]}, "messages", "text") == chat
    longer = make({"messages": [USER, GOOD, USER, BAD]}, "messages", "text")
    assert longer == TextExample([USER], [GOOD, USER, BAD], "f:1")
    assert make({"chosen": "q: yes", "rejected": "q: no"}, "preference", "text") == TextExample(
        "q:", " yes", "f:1"
    )


def test_text_parts_are_joined() -> None:
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
    }
    assert make({"messages": [parts, GOOD]}, "messages", "text").prompt == [USER]


PREFERENCES = [
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, ("q", "a", "b")),
    ({"prompt": None, "chosen": "q a", "rejected": "q b"}, ("q", " a", " b")),
    ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, ([USER], [GOOD], [BAD])),
    ({"prompt": [USER], "chosen": "Hello", "rejected": "No"}, ([USER], [GOOD], [BAD])),
    ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, ([USER], [GOOD], [BAD])),
    ({"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, ([USER], [GOOD], [BAD])),
    ({"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]}, ([USER], [GOOD], [BAD])),
    ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, ([USER], [GOOD], [BAD])),
    (
        {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]},
        ([USER, GOOD, USER], [GOOD], [BAD]),
    ),
    (
        {"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER, BAD]},
        ([USER], [GOOD], [GOOD, USER, BAD]),
    ),
]


@pytest.mark.parametrize(("columns", "expected"), PREFERENCES)
def test_preferences(columns: dict, expected: tuple) -> None:
    assert make(columns, "preference", "pairs") == PairExample(*expected, None, "f:1")


def test_margin() -> None:
    pair = make({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}, "preference", "pairs")
    assert pair.margin == 2.0 and isinstance(pair.margin, float)
    for text, margin in (("2", 2.0), (" -0.5", -0.5), ("", None)):  # as CSV gives it
        assert (
            make(
                {"prompt": "q", "chosen": "a", "rejected": "b", "margin": text},
                "preference",
                "pairs",
            ).margin
            == margin
        )


def test_prompts_keep_other_columns() -> None:
    verl = {
        "prompt": [USER],
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "data_source": "gsm8k",
    }
    example = make(verl, "prompt", "prompts")
    assert example == PromptExample(
        [USER],
        {**{k: verl[k] for k in ("reward_model", "data_source")}, "ground_truth": "4"},
        "f:1",
    )
    assert make(
        {"prompt": "q", "completion": "a"}, "prompt_completion", "prompts"
    ) == PromptExample("q", {"completion": "a"}, "f:1")
    assert make({"messages": [USER, GOOD]}, "messages", "prompts").prompt == [USER]
    assert make({"messages": [USER, GOOD, USER]}, "messages", "prompts").prompt == [
        USER,
        GOOD,
        USER,
    ]
    assert make({"chosen": "q a", "rejected": "q b"}, "preference", "prompts").prompt == "q"


H, A = "\n\nHuman:", "\n\nAssistant:"
COMMON = [
    (f"{H} q{A} yes", f"{H} q{A} no", f"{H} q{A}"),
    (f"{H} q{A} same start, a", f"{H} q{A} same start, b", f"{H} q{A}"),
    (f"{H} q{A} one{H} r{A} yes", f"{H} q{A} one{H} r{A} no", f"{H} q{A} one{H} r{A}"),
    (f"{H} q{A} one{H} r{A} yes", f"{H} q{A} two{H} s{A} no", f"{H} q{A}"),
    (f"{H} q{A} a{A} b", f"{H} q{A} c", f"{H} q{A}"),
    ("Q: 1+1? A: 12", "Q: 1+1? A: 13", "Q: 1+1? A:"),
    ("Q: x A: yes", "Q: x A: yes indeed", "Q: x A:"),
    ("Q: x A: yes", "Q: x A:  yes", "Q: x A:"),
    ("one two", "one twofold", "one"),
]


@pytest.mark.parametrize(("chosen", "rejected", "prompt"), COMMON)
def test_common_prompt(chosen: str, rejected: str, prompt: str) -> None:
    for first, second in ((chosen, rejected), (rejected, chosen)):
        found = common_prompt(first, second)
        assert found[0] == prompt
        assert (found[0] + found[1], found[0] + found[2]) == (first, second)
        assert found[1].strip() and found[2].strip()


def test_rename_columns() -> None:
    row = {"question": "q", "meta": {"gold": {"answer": 4}}, "a.b": 1, "keep": 2}
    renamed = rename_columns(
        row, {"prompt": "question", "answer": "meta.gold.answer", "x": "a.b", "none": "meta.nope"}
    )
    assert renamed == {
        "prompt": "q",
        "answer": 4,
        "x": 1,
        "meta": {"gold": {"answer": 4}},
        "keep": 2,
    }


BAD_ROWS = [
    (
        {"prompt": "q"},
        "prompt_completion",
        "missing column",
        "column 'completion' is missing (found: prompt)",
    ),
    ({}, "text", "missing column", "column 'text' is missing (found: none)"),
    ({"text": None}, "text", "null", "column 'text' is null"),
    ({"text": 5}, "text", "wrong type", "column 'text' is int, text is needed"),
    ({"text": ["a"]}, "text", "wrong type", "column 'text' is list, text is needed"),
    (
        {"prompt": 5, "completion": "a"},
        "prompt_completion",
        "wrong type",
        "column 'prompt' is int, text or a list of messages is needed",
    ),
    ({"text": " \n"}, "text", "empty text", "column 'text' is empty"),
    (
        {"prompt": "q", "completion": ""},
        "prompt_completion",
        "empty text",
        "column 'completion' is empty",
    ),
    (
        {"prompt": "q", "completion": [GOOD]},
        "prompt_completion",
        "wrong type",
        "column 'prompt' is text but 'completion' is a list of messages",
    ),
    (
        {"prompt": [USER], "completion": [GOOD, USER]},
        "prompt_completion",
        "no answer",
        "column 'completion' does not end with an assistant message",
    ),
    (
        {"text": "ab\ud83d"},
        "text",
        "invalid text",
        "column 'text' holds a lone surrogate at character 2",
    ),
    (
        {"messages": [{"role": "user", "content": "\ud83d"}, GOOD]},
        "messages",
        "invalid text",
        "column 'messages', message 1 holds a lone surrogate at character 0",
    ),
    ({"messages": None}, "messages", "null", "column 'messages' is null"),
    (
        {"messages": "Hi"},
        "messages",
        "wrong type",
        "column 'messages' is str, a list of messages is needed",
    ),
    ({"messages": []}, "messages", "empty text", "column 'messages' is an empty list"),
    (
        {"messages": [USER]},
        "messages",
        "no answer",
        "column 'messages' does not end with an assistant message",
    ),
    ({"messages": [GOOD]}, "messages", "no prompt", "column 'messages' starts with an answer"),
    (
        {"messages": [USER, "x"]},
        "messages",
        "wrong type",
        "column 'messages', message 2 is not an object with 'role' and 'content'",
    ),
    (
        {"messages": [{"role": "user"}, GOOD]},
        "messages",
        "null",
        "column 'messages', message 1 has no content",
    ),
    (
        {"messages": [{"role": "user", "content": 5}, GOOD]},
        "messages",
        "wrong type",
        "column 'messages', message 1 has content of type int, text is needed",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, GOOD]},
        "messages",
        "wrong type",
        "column 'messages', message 1 has parts that are not text",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        "messages",
        "empty text",
        "column 'messages', message 2 is an empty answer",
    ),
]
BAD_PAIRS = [
    (
        {"chosen": "a b", "rejected": "a b"},
        "no difference",
        "columns 'chosen' and 'rejected' are equal",
    ),
    (
        {"chosen": "a", "rejected": [GOOD]},
        "wrong type",
        "one of 'chosen' and 'rejected' is text and the other a list of messages",
    ),
    (
        {"chosen": "yes", "rejected": "no"},
        "no prompt",
        "'chosen' and 'rejected' share no prompt at their start (add a 'prompt' column)",
    ),
    (
        {"chosen": f"{H} q{A} x", "rejected": f"{H} r{A} y"},
        "no prompt",
        "'chosen' and 'rejected' share no prompt at their start (add a 'prompt' column)",
    ),
    (
        {"chosen": f"{H} q{A} ", "rejected": f"{H} q{A} y"},
        "empty text",
        "column 'chosen' has an empty answer",
    ),
    (
        {"chosen": f"{H} q{A} x", "rejected": f"{H} q{A}"},
        "empty text",
        "column 'rejected' has an empty answer",
    ),
    (
        {"chosen": [GOOD], "rejected": [BAD]},
        "no prompt",
        "'chosen' and 'rejected' share no message before an answer",
    ),
    (
        {"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER]},
        "no answer",
        "column 'rejected' does not end with an assistant message",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "high"},
        "wrong type",
        "column 'margin' is 'high', a number is needed",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "nan"},
        "wrong type",
        "column 'margin' is 'nan', a number is needed",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": [2]},
        "wrong type",
        "column 'margin' is list, a number is needed",
    ),
]


@pytest.mark.parametrize(
    ("columns", "form", "kind", "reason", "detail"),
    [(c, f, "text", r, d) for c, f, r, d in BAD_ROWS]
    + [(c, "preference", "pairs", r, d) for c, r, d in BAD_PAIRS]
    + [
        (
            {"messages": [GOOD]},
            "messages",
            "prompts",
            "no prompt",
            "column 'messages' holds nothing before the answer",
        )
    ],
)
def test_bad_row(columns: dict, form: str, kind: str, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        make(columns, form, kind)
    assert (caught.value.reason, caught.value.detail) == (reason, detail)
