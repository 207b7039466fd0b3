r"""Transcripts ("\n\nHuman: ...\n\nAssistant: ...") as conversations, for every algorithm."""

import json

import pytest

from rlhf_jax.data import (
    BadRow,
    DataConfig,
    DataError,
    load_examples,
    make_loader,
    make_prompt_loader,
)
from rlhf_jax.data.transcripts import read_transcript
from tests.data.shapes import CHATML, shaped_tokenizer


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def load(tmp_path, rows: list[dict], kind: str, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(DataConfig(path=str(path), transcript=True, **options), kind=kind)


START = "\n\nHuman: one?\n\nAssistant: uno\n\nHuman: two?\n\nAssistant:"
ASKED = [user("one?"), answer("uno"), user("two?")]
PAIR = {"chosen": START + " dos", "rejected": START + " tres"}

READ = [
    ("\n\nHuman: a\n\nAssistant: b", [user("a"), answer("b")]),
    ("Human: a\n\nAssistant: b\n", [user("a"), answer("b")]),
    ("\r\n\r\nHuman: a\r\n\r\nAssistant: b", [user("a"), answer("b")]),
    ("\n\nHuman:a\n\n\nAssistant:b", [user("a"), answer("b")]),
    ("\n\nHuman: a\n\nAssistant:", [user("a")]),
    ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", [user("a"), answer("b"), user("c")]),
    (
        "\n\nAssistant: Hello!\n\nHuman: a\n\nAssistant: b",
        [answer("Hello!"), user("a"), answer("b")],
    ),
    # a mark stands behind an empty line only
    (
        "\n\nHuman: is Human: a mark?\nHuman: no\n\nAssistant: b",
        [user("is Human: a mark?\nHuman: no"), answer("b")],
    ),
    (
        "\n\nHuman: a\n\nNo Assistant: here\n\nAssistant: b",
        [user("a\n\nNo Assistant: here"), answer("b")],
    ),
    # one message of the same speaker twice
    (
        "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d",
        [user("a\n\nb"), answer("c\n\nd")],
    ),
    ("\n\nHuman: a\n\nAssistant: b\n\nAssistant:", [user("a"), answer("b")]),
    ("Be kind.\n\nHuman: a", [{"role": "system", "content": "Be kind."}, user("a")]),
]


@pytest.mark.parametrize(("text", "messages"), READ)
def test_reading(text: str, messages: list[dict]) -> None:
    assert read_transcript(text, "it") == messages


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (
            "a question",
            "it has no turn that begins with 'Human:' or 'Assistant:' behind an empty line",
        ),
        ("what does Human: mean?", "it has no turn that begins with"),
        ("\n\nHuman:\n\nAssistant: b", "it has nothing said in turn 1"),
        ("\n\nAssistant:", "it has turns without text only"),
    ],
)
def test_no_transcript(text: str, detail: str) -> None:
    with pytest.raises(BadRow) as error:
        read_transcript(text, "it")
    assert error.value.detail.startswith(detail)


def test_pairs_share_their_prompt(tmp_path) -> None:
    [row] = load(tmp_path, [PAIR], "pairs").rows
    assert (row.prompt, row.chosen, row.rejected) == (ASKED, [answer("dos")], [answer("tres")])


@pytest.mark.parametrize("explicit", [{}, {"prompt": "\n\nHuman: one?\n\nAssistant:"}])
def test_pairs_that_part_before_their_last_answer(tmp_path, explicit: dict) -> None:
    start = "" if explicit else "\n\nHuman: one?\n\nAssistant:"
    row = {
        "chosen": start + " uno\n\nHuman: two?\n\nAssistant: dos",
        "rejected": start + " no",
        **explicit,
    }
    [pair] = load(tmp_path, [row], "pairs").rows
    assert (pair.prompt, pair.rejected) == ([user("one?")], [answer("no")])
    assert pair.chosen == [answer("uno"), user("two?"), answer("dos")]
    # apart from a question on: the answer before it is the first that is compared
    ends = (" uno\n\nHuman: two?\n\nAssistant: dos", " uno\n\nHuman: three?\n\nAssistant: dos")
    [pair] = load(
        tmp_path,
        [dict(zip(("chosen", "rejected"), (start + end for end in ends), strict=True)) | explicit],
        "pairs",
    ).rows
    assert pair.prompt == [user("one?")] and pair.chosen == [
        answer("uno"),
        user("two?"),
        answer("dos"),
    ]
    assert pair.rejected == [answer("uno"), user("three?"), answer("dos")]


def test_a_prompt_column(tmp_path) -> None:
    for prompt, chosen, rejected in (
        (START, " dos", " tres"),
        (START.removesuffix("\n\nAssistant:"), "\n\nAssistant: dos", "\n\nAssistant: tres"),
        (START, START + " dos", START + " tres"),  # which repeat it
    ):
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        [pair] = load(tmp_path, [row], "pairs").rows
        assert (pair.prompt, pair.chosen, pair.rejected) == (
            ASKED,
            [answer("dos")],
            [answer("tres")],
        )
        [text] = load(tmp_path, [{"prompt": prompt, "completion": chosen}], "text").rows
        assert (text.prompt, text.completion) == (ASKED, [answer("dos")])
        [online] = load(tmp_path, [{"prompt": prompt, "answer": "2"}], "prompts").rows
        assert online.prompt == ASKED and online.columns == {"answer": "2"}


def test_texts_are_trained_on_all_their_answers(tmp_path) -> None:
    [row] = load(tmp_path, [{"text": PAIR["chosen"]}], "text").rows
    assert (row.prompt, row.completion) == (
        [user("one?")],
        [answer("uno"), user("two?"), answer("dos")],
    )
    [row] = load(tmp_path, [PAIR], "text").rows
    assert (row.prompt, row.completion) == (ASKED, [answer("dos")])


def test_prompts(tmp_path) -> None:
    asked = [*ASKED, answer("dos"), user("three?")]
    for row, expected in (
        (PAIR, ASKED),
        ({"prompt": PAIR["chosen"]}, ASKED),
        ({"prompt": PAIR["chosen"] + "\n\nHuman: three?"}, asked),
        ({"prompt": PAIR["chosen"] + "\n\nHuman: three?\n\nAssistant:"}, asked),
    ):
        assert load(tmp_path, [row], "prompts").rows[0].prompt == expected


BAD = [
    ({"text": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"}, "text", "does not end with an answer"),
    ({"text": "\n\nAssistant: b"}, "text", "holds no question before an answer"),
    ({"text": "no marks"}, "text", "the text has no turn that begins with"),
    ({"prompt": "no marks"}, "prompts", "the prompt has no turn that begins with"),
    ({"prompt": "\n\nAssistant: b"}, "prompts", "the transcript holds no question"),
    (
        {"prompt": "\n\nHuman: a\n\nAssistant: b", "completion": "c"},
        "text",
        "the prompt ends within a turn",
    ),
    (
        {"messages": [user("a"), answer("b")]},
        "text",
        "this row holds messages or token ids: leave it false",
    ),
    ({"prompt": [user("a")]}, "prompts", "this row holds messages or token ids: leave it false"),
    ({"input_ids": [1, 2]}, "text", "this row holds messages or token ids: leave it false"),
    ({"chosen": START + " a", "rejected": START + "  a"}, "pairs", "differ in white space only"),
]


@pytest.mark.parametrize(("row", "kind", "detail"), BAD)
def test_rows_that_are_none(tmp_path, row: dict, kind: str, detail: str) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, [row], kind)
    assert (
        "rows.jsonl:1: " in str(error.value)
        and detail in str(error.value)
        and "\n" not in str(error.value)
    )


def test_rows_that_are_none_are_counted(tmp_path) -> None:
    examples = load(
        tmp_path, [{"text": "no marks"}, {"text": PAIR["chosen"]}], "text", on_error="skip"
    )
    assert len(examples.rows) == 1 and examples.skipped == {"no transcript": 1}
    with pytest.raises(DataError, match="no usable transcript: no transcript 1"):
        load(tmp_path, [{"text": "no marks"}], "text", on_error="skip")


def test_system_message_and_template_of_prompts(tmp_path) -> None:
    [row] = load(
        tmp_path, [PAIR], "prompts", system_prompt="Short.", prompt_template="<{prompt}>"
    ).rows
    assert row.prompt == [{"role": "system", "content": "Short."}, *ASKED[:-1], user("<two?>")]


def test_the_model_sees_its_chat_template(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR))
    config, tokenizer = DataConfig(path=str(path), transcript=True), shaped_tokenizer(CHATML)
    batch = make_loader(config, tokenizer, kind="pairs", batch_size=1, seed=0).batch(0)
    trained = [
        tokenizer.decode(ids[flags].tolist())
        for ids, flags in zip(batch.tokens[0], batch.completion_mask[0], strict=True)
    ]
    assert trained == ["dos<|im_end|>", "tres<|im_end|>"]
    prompts = make_prompt_loader(config, tokenizer, max_prompt_len=256, seed=0).take([0])
    prompt = tokenizer.apply_chat_template(ASKED, True)
    assert prompts.tokens[0, : prompts.lengths[0]].tolist() == tokenizer.encode(prompt)


def test_the_same_rows_are_held_out(tmp_path) -> None:
    rows = [
        {name: text.replace("one", str(number)) for name, text in PAIR.items()}
        for number in range(20)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [
        [
            row.where
            for row in load_examples(
                DataConfig(path=str(path), eval_size=5, transcript=read), kind=kind, split="eval"
            ).rows
        ]
        for read in (False, True)
        for kind in ("text", "pairs", "prompts")
    ]
    assert len(held[0]) == 5 and all(other == held[0] for other in held)


def test_real_transcripts(shared_data) -> None:
    config = DataConfig(
        path=str(shared_data / "hh-rlhf" / "pairs.jsonl"), on_error="skip", transcript=True
    )
    examples = load_examples(config, kind="pairs")
    assert (len(examples.rows), examples.skipped) == (996, {"empty text": 4})
    for row in examples.rows:
        for completion in (row.chosen, row.rejected):
            roles = [message["role"] for message in [*row.prompt, *completion]]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row.prompt[-1]["role"] == "user"
