"""Messages that say whether they are trained on, and texts that were rendered before."""

import json
import logging

import pytest

from rlhf_jax.data import (
    BadRow,
    DataConfig,
    DataError,
    PairExample,
    TextExample,
    load_examples,
    make_loader,
    make_prompt_loader,
)
from rlhf_jax.data.formats import make_example
from rlhf_jax.data.marks import NO_ANSWER, RENDERED, UNREAD, message_notes
from rlhf_jax.data.messages import Message, read_conversation
from rlhf_jax.data.spans import EncodedRow
from rlhf_jax.data.tokenize import tokenize_chunk
from rlhf_jax.data.turns import REWRITTEN
from tests.data.shapes import CHATML, GEMMA, MARKED, NO_STOP, QWEN3, R1, SHAPES, shaped_tokenizer
from tests.data.test_turns import rows_of, spans

Q, R, S = ({"role": "user", "content": text} for text in ("What is 2+2?", "And 3+3?", "And 4+4?"))
A, B, C = (
    {"role": "assistant", "content": text} for text in ("It is four.", "That makes six.", "Eight.")
)
OFF = (
    {"weight": 0},
    {"train": False},
    {"training": False},
    {"loss": False},
    {"loss_mask": 0},
    {"train": 0},
)
OFF += ({"weight": 0.0}, {"weight": False}, {"train": 0.0})
ON = (
    {"weight": 1},
    {"train": True},
    {"training": True},
    {"loss_mask": 1},
    {"weight": None},
    {"train": None},
    {},
)
ON += ({"weight": 1.0}, {"weight": True}, {"train": 1.0})


def encode(messages: list[Message], shape=CHATML, **options):
    example = make_example({"messages": messages}, "messages", "text", "f:1")
    config = DataConfig(path="x", max_length=4096, **options)
    return tokenize_chunk([example], shaped_tokenizer(shape), config)


def texts(shape, rows: list[EncodedRow]) -> list[str]:
    tokenizer = shaped_tokenizer(shape)
    return [tokenizer.decode(span) for row in rows for span in spans(row)]


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_that_is_marked_is_not_trained_on(name: str) -> None:
    """Whichever of three it is, the others are trained on as without the mark."""
    shape = SHAPES[name]
    answers = [A, B, C]
    plain = texts(shape, rows_of(encode([Q, A, R, B, S, C], shape)))
    assert len(plain) == 3
    for place in range(3):
        marked = [
            {**answer, "weight": 0} if index == place else answer
            for index, answer in enumerate(answers)
        ]
        made = encode([Q, marked[0], R, marked[1], S, marked[2]], shape)
        assert not made.bad and not made.dropped
        found = texts(shape, rows_of(made))
        expected = plain[:place] + plain[place + 1 :]
        if place == 2:  # then the second is the last of its row, and ends as a last one does
            expected = texts(shape, rows_of(encode([Q, A, R, B], shape)))
        assert found == expected


@pytest.mark.parametrize("off", OFF)
def test_every_spelling(off: dict) -> None:
    assert texts(CHATML, rows_of(encode([Q, {**A, **off}, R, B]))) == ["That makes six.<|im_end|>"]
    turns = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a", **off},
        {"from": "human", "value": "r"},
    ]
    example = make_example(
        {"conversations": [*turns, {"from": "gpt", "value": "b"}]}, "messages", "text", "f:1"
    )
    made = tokenize_chunk([example], shaped_tokenizer(CHATML), DataConfig(path="x"))
    assert texts(CHATML, rows_of(made)) == ["b<|im_end|>"]


@pytest.mark.parametrize("on", ON)
def test_marks_that_change_nothing_leave_no_trace(on: dict) -> None:
    assert read_conversation([{**A, **on}], "messages") == [A]


def test_the_row_of_marked_answers_keeps_its_context() -> None:
    [plain] = rows_of(encode([Q, A, R, B]))
    [marked] = rows_of(encode([Q, {**A, "weight": 0}, R, B]))
    assert marked.ids == plain.ids
    [ended] = rows_of(encode([Q, A, R, {**B, "weight": 0}]))
    [short] = rows_of(encode([Q, A]))
    assert ended == short  # nothing behind the last trained answer


@pytest.mark.parametrize("shape", [CHATML, MARKED, NO_STOP, QWEN3, R1, GEMMA])
def test_nothing_to_train_on_is_left_out_and_counted(shape) -> None:
    made = encode([Q, {**A, "weight": 0}], shape)
    assert dict(made.dropped) == {"no answer to train on": 1} and not len(made.arrays[2])
    pair = PairExample([Q], [A], [{**B, "train": False}], None, "f:1")
    made = tokenize_chunk([pair], shaped_tokenizer(shape), DataConfig(path="x"))
    assert dict(made.dropped) == {"no answer to train on": 1}


@pytest.mark.parametrize("shape", [CHATML, MARKED, QWEN3])
def test_pairs(shape) -> None:
    columns = {
        "prompt": [Q],
        "chosen": [{**A, "weight": 0}, R, B],
        "rejected": [{**A, "weight": 0}, R, C],
    }
    pair = make_example(columns, "preference", "pairs", "f:1")
    made = tokenize_chunk([pair], shaped_tokenizer(shape), DataConfig(path="x"))
    ended = [text.removeprefix("<think>\n\n</think>\n\n") for text in texts(shape, rows_of(made))]
    assert ended == ["That makes six.<|im_end|>", "Eight.<|im_end|>"]
    # one answer is trained on, and none is lost
    assert REWRITTEN not in [note.kind for _, note in made.notes]


BAD_MARKS = [
    ({"weight": 0.5}, "column 'messages', message 2 has weight '0.5', which must be 0 or 1"),
    ({"weight": 2}, "has weight '2', which must be 0 or 1"),
    ({"weight": "0"}, "has weight '0', which must be 0 or 1"),
    ({"weight": float("nan")}, "has weight 'nan', which must be 0 or 1"),
    ({"train": 0.5}, "has train '0.5', which must be true or false"),
    ({"train": "false"}, "has train 'false', which must be true or false"),
    ({"training": [1]}, "has training '[1]', which must be true or false"),
    ({"loss": 0.3}, "has loss '0.3', which must be true or false"),
    (
        {"weight": 0, "train": True},
        "says both that it is trained on and that it is not (weight, train)",
    ),
]


@pytest.mark.parametrize(("mark", "message"), BAD_MARKS)
def test_other_values_are_refused(mark: dict, message: str) -> None:
    with pytest.raises(BadRow) as error:
        read_conversation([Q, {**A, **mark}], "messages")
    assert message in error.value.detail and "\n" not in error.value.detail


def test_training_on_everything_contradicts_a_mark() -> None:
    made = encode([Q, {**A, "weight": 0}, R, B], train_on="all")
    [(where, _, detail)] = made.bad
    assert where == "f:1" and "data.train_on is 'all'" in detail
    assert not encode([Q, {**A, "weight": 1}, R, B], train_on="all").bad


def test_a_question_to_be_trained_on_is_noted() -> None:
    made = encode([{**Q, "train": True}, A])
    assert [(where, note.kind) for where, note in made.notes] == [("f:1", NO_ANSWER)]
    for harmless in ({"weight": 1}, {"weight": 0}, {"train": False}):
        assert encode([{**Q, **harmless}, A]).notes == []


# Texts that were rendered before

RENDERINGS = {name: shape for name, shape in SHAPES.items() if name != "parts"}


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendered_prompt_that_is_wrapped_again_is_said(name: str, tmp_path, caplog) -> None:
    tokenizer = shaped_tokenizer(RENDERINGS[name])
    prompt = tokenizer.apply_chat_template([Q], True)
    row = {"prompt": prompt, "completion": "4", "chosen": "4", "rejected": "5"}
    rows = [{**row, "prompt": "What is an assistant?"}, row]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), conversational=True)
    with caplog.at_level(logging.WARNING):
        make_loader(config, tokenizer, kind="text", batch_size=1, seed=0)
        make_loader(config, tokenizer, kind="pairs", batch_size=1, seed=0)
        make_prompt_loader(config, tokenizer, max_prompt_len=256, seed=0)
    told = [
        text for text in caplog.messages if "were rendered before get a second wrapping" in text
    ]
    assert len(told) == 3
    assert all("1 conversations hold" in text and "rows.jsonl:2)" in text for text in told)


def test_rendered_prompts_that_stay_texts_are_right() -> None:
    tokenizer = shaped_tokenizer(CHATML)
    rendered = TextExample(tokenizer.apply_chat_template([Q], True), "4<|im_end|>\n", "f:1")
    made = tokenize_chunk([rendered], tokenizer, DataConfig(path="x"))
    assert made.notes == [] and texts(CHATML, rows_of(made)) == ["4<|im_end|>"]


def test_answers_and_plain_questions_are_no_renderings() -> None:
    question = {"role": "user", "content": "Why does <b>assistant</b> print 'assistant'?"}
    made = encode([question, {**A, "content": "It ends with <|im_end|>"}])
    assert RENDERED not in [note.kind for _, note in made.notes]


# Variables of the template

RESERVED = [
    ("add_generation_prompt", "the prompt opens the answer"),
    ("tokenize", "texts are tokenised by the library"),
    ("tools", "give data.tools, or a column 'tools'"),
    ("conversation", "the row's own messages are rendered"),
    ("messages", "the row's own messages are rendered"),
    ("chat_template", "give data.chat_template"),
    ("continue_final_message", "an answer that is begun"),
    ("max_length", "give data.max_length"),
]


@pytest.mark.parametrize(("name", "instead"), RESERVED)
def test_arguments_that_are_no_variables(name: str, instead: str) -> None:
    with pytest.raises(DataError) as error:
        DataConfig(path="x", chat_template_kwargs={name: True})
    assert (
        f"data.chat_template_kwargs holds {name!r}, which is no variable of a template: {instead}"
        in str(error.value)
    )
    with pytest.raises(BadRow) as bad:
        make_example(
            {"messages": [Q, A], "chat_template_kwargs": {name: True}}, "messages", "text", "f:1"
        )
    assert (
        f"column 'chat_template_kwargs' holds {name!r}" in bad.value.detail
        and instead in bad.value.detail
    )


def test_names_of_variables_are_texts() -> None:
    with pytest.raises(ValueError, match="chat_template_kwargs={1: True} of DataConfig is not"):
        DataConfig(path="x", chat_template_kwargs={1: True})


def test_parquet_null_marks(tmp_path) -> None:
    rows = [
        {
            "messages": [
                {**Q, "weight": None},
                {**A, "weight": 0},
                {**R, "weight": None},
                {**B, "weight": None},
            ]
        }
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    [example] = load_examples(DataConfig(path=str(tmp_path / "rows.jsonl")), kind="text").rows
    assert example.completion == [{**A, "train": False}, R, B]


READS = (
    "{% macro head(role) %}{{ '<|im_start|>' + role + style | default('') + '\n' }}{% endmacro %}"
    "{% set thinking = enable_thinking | default(true) %}{{ head('system') if thinking }}"
    "{% for message in messages %}{{ head(message.role) + message.content + '<|im_end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("variables", "unread"),
    [
        ({"enable_thinking": False}, ""),
        ({"style": "x"}, ""),
        ({"enable_thinkng": False}, "'enable_thinkng'"),
        (
            {"enable_thinking": False, "message": 1, "raise_exception": 2},
            "'message' and 'raise_exception'",
        ),
    ],
)
def test_a_variable_that_the_template_does_not_read_is_noted(
    variables: dict, unread: str, tmp_path, caplog
) -> None:
    """In a row and in the options, of answers and of prompts."""
    tokenizer = shaped_tokenizer(CHATML).with_chat_template(READS)
    plain = {"messages": [Q, A]}
    path = tmp_path / "rows.jsonl"
    for rows, options, first in (
        ([plain, {**plain, "chat_template_kwargs": variables}], {}, 2),
        ([plain, {"messages": [R, B]}], {"chat_template_kwargs": variables}, 1),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = DataConfig(path=str(path), max_length=256, **options)
        for make in (
            lambda config: make_loader(config, tokenizer, kind="text", batch_size=1, seed=0),
            lambda config: make_prompt_loader(config, tokenizer, max_prompt_len=128, seed=0),
        ):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                make(config)
            assert ("reads no variable" in caplog.text) == bool(unread)
            if unread:
                assert (
                    f"reads no variable {unread}" in caplog.text
                    and f"the first: {path}:{first}" in caplog.text
                )
                assert f"no effect in {3 - first} conversations" in caplog.text


def test_the_template_of_tools_is_the_one_that_is_asked(tmp_path) -> None:
    templates = {"default": READS, "tool_use": READS.replace("enable_thinking", "citations")}
    tokenizer = shaped_tokenizer(CHATML)
    tokenizer = type(tokenizer)(
        tokenizer.backend, {**tokenizer.config, "chat_template": templates}, tokenizer.generation
    )
    row = {"messages": [Q, A], "chat_template_kwargs": {"citations": True}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for columns, expected in ((row, 1), ({**row, "tools": [tool]}, 0)):
        example = make_example(columns, "messages", "text", "f:1")
        assert (
            len([note for note in message_notes(example, tokenizer) if note.kind == UNREAD])
            == expected
        )
