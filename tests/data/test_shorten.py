"""Conversations that are too long: whole turns go, headers and the system message stay."""

import pytest

from rlhf_jax.data import DataConfig, PairExample, TextExample, byte_tokenizer
from rlhf_jax.data.encode import fit
from rlhf_jax.data.shorten import shorten_chat
from rlhf_jax.data.spans import EncodedRow
from rlhf_jax.data.tokenize import tokenize_chunk
from tests.data.shapes import CHATML, LLAMA3, QWEN3, SHAPES, shaped_tokenizer

BYTES = byte_tokenizer()
SYSTEM = {"role": "system", "content": "Answer in French."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


LONG = [
    SYSTEM,
    user("a" * 30),
    answer("b" * 30),
    user("c" * 20),
    answer("d" * 20),
    {"role": "tool", "content": "t"},
    user("end"),
]


def measure(messages: list[dict]) -> int:
    return sum(len(message["content"]) + 5 for message in messages)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (measure(LONG) - 1, [SYSTEM, *LONG[3:]]),
        (measure([SYSTEM, *LONG[3:]]), [SYSTEM, *LONG[3:]]),
        (measure([SYSTEM, *LONG[3:]]) - 1, [SYSTEM, user("end")]),
        (measure([SYSTEM, user("nd")]), [SYSTEM, user("nd")]),
        (measure([SYSTEM, user("d")]), [SYSTEM, user("d")]),
        (measure([SYSTEM, user("d")]) - 1, None),
    ],
)
def test_oldest_turns_go_first(budget: int, kept: list | None) -> None:
    assert shorten_chat(LONG, budget, BYTES, measure) == kept


def test_half_a_character_is_no_text() -> None:
    kept = shorten_chat(
        [user("\u00e9" * 10)], 6, BYTES, lambda m: len(m[0]["content"].encode()) + 1
    )
    assert kept == [user("\u00e9\u00e9")]


def decoded(tokenizer, made) -> list[str]:
    ends = made.arrays[2].cumsum()
    return [
        tokenizer.decode(made.arrays[0][end - size : end].tolist())
        for end, size in zip(ends, made.arrays[2], strict=True)
    ]


@pytest.mark.parametrize("name", SHAPES)
def test_rows_keep_whole_headers(name: str) -> None:
    """Whatever is cut, the prompt is one that the template writes."""
    tokenizer = shaped_tokenizer(SHAPES[name])
    history = [
        user("first " * 20),
        answer("one"),
        user("second " * 6),
        answer("two"),
        user("third"),
    ]
    for limit in (60, 100, 140, 180):
        made = tokenize_chunk(
            [TextExample(history, [answer("ok")], "")],
            tokenizer,
            DataConfig(path="x", max_length=limit),
        )
        for text in decoded(tokenizer, made):
            cut = text.find("third")
            assert cut >= 0 and made.shortened == 1
            allowed = [history[2 * turn :] for turn in range(3)]
            if name == "parts":
                allowed = [
                    [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in part]
                    for part in allowed
                ]
            openings = [tokenizer.apply_chat_template(part, True) for part in allowed]
            assert any(
                text.startswith(opening[: opening.find("third") + 5]) for opening in openings
            )


def test_the_system_message_stays() -> None:
    tokenizer = shaped_tokenizer(LLAMA3)
    example = TextExample([SYSTEM, user("x" * 60 + " how many apples remain?")], [answer("9")], "")
    made = tokenize_chunk([example], tokenizer, DataConfig(path="x", max_length=60))
    [text] = decoded(tokenizer, made)
    assert text.startswith(
        "<bos><|start_header_id|>system<|end_header_id|>\n\nAnswer in "
        "French.<|eot_id|><|start_header_id|>user"
    )
    assert text.endswith(
        "remain?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n9<|eot_id|>"
    )
    assert made.arrays[2].tolist() == [60] and made.shortened == 1
    made = tokenize_chunk([example], tokenizer, DataConfig(path="x", max_length=24))
    assert dict(made.dropped) == {"prompt too long": 1}


def test_pairs_lose_the_same_turns() -> None:
    tokenizer = shaped_tokenizer(CHATML)
    example = PairExample(
        [user("x" * 50), answer("y"), user("q")], [answer("good")], [answer("bad")], None, ""
    )
    made = tokenize_chunk([example], tokenizer, DataConfig(path="x", max_length=50))
    prompt = tokenizer.apply_chat_template([user("q")], True)
    assert decoded(tokenizer, made) == [prompt + "good<|im_end|>", prompt + "bad<|im_end|>"]


def test_unrolled_rows_are_cut_each_for_itself() -> None:
    tokenizer = shaped_tokenizer(QWEN3)
    example = TextExample([user("x" * 40)], [answer("one"), user("q"), answer("two")], "")
    made = tokenize_chunk([example], tokenizer, DataConfig(path="x", max_length=90))
    first, second = decoded(tokenizer, made)
    assert first.endswith("one<|im_end|>") and second == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\ntwo<|im_end|>"
    )
    assert made.shortened == 1


def test_of_several_answers_whole_ones_stay() -> None:
    row = EncodedRow(
        list(range(10, 22)), [True] * 4 + [False] * 2 + [True] * 3 + [False] + [True] * 2
    )
    for limit, kept in ((13, 12), (12, 9), (11, 9), (10, 9), (9, 4), (5, 4), (4, 3)):
        [fitted], _ = fit([1], [row], DataConfig(path="x", max_length=limit))
        assert len(fitted.ids) == kept + 1
