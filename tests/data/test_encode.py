"""Examples to ids: prefixes, what is trained on, EOS, and every truncation policy."""

import pytest

from rlhf_jax.data import (
    BadRow,
    DataConfig,
    FastTokenizer,
    PairExample,
    PromptExample,
    TextExample,
    byte_tokenizer,
    load_tokenizer,
)
from rlhf_jax.data.encode import (
    NO_CHAT,
    SECOND_BOS,
    Dropped,
    encode_rows,
    fit,
    render,
    render_prompt,
)
from rlhf_jax.data.kinds import TokenExample
from rlhf_jax.data.messages import ChatOptions
from rlhf_jax.data.spans import EncodedRow
from rlhf_jax.data.tokenize import tokenize_chunk

BYTES = byte_tokenizer()
EOS = BYTES.eos_id
USER = {"role": "user", "content": "Hi"}
CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def encode(example, tokenizer: FastTokenizer = BYTES, **options) -> list[EncodedRow]:
    config = DataConfig(path="x", **options)
    item = render(example, tokenizer)
    [(prompt, rows)] = encode_rows([item], tokenizer, config)
    return fit(prompt, rows, config)[0]


def trained_text(row: EncodedRow, tokenizer: FastTokenizer = BYTES) -> str:
    return tokenizer.decode(
        [token for token, flag in zip(row.ids, row.trained, strict=True) if flag]
    )


def test_prompt_and_completion() -> None:
    [row] = encode(TextExample("ab", "cd", ""))
    assert row == EncodedRow([97, 98, 99, 100, EOS], [False, False, True, True, True])
    [row] = encode(TextExample("ab", "cd", ""), append_eos=False)
    assert row == EncodedRow([97, 98, 99, 100], [False, False, True, True])


def test_eos_is_appended_once() -> None:
    [row] = encode(TextExample("ab", "cd<|endoftext|>", ""))
    assert row.ids == [97, 98, 99, 100, EOS]


def test_bare_text_trains_on_all_but_the_first_token() -> None:
    [row] = encode(TextExample(None, "abc", ""))
    assert row == EncodedRow([97, 98, 99, EOS], [False, True, True, True])


def test_train_on_all() -> None:
    [row] = encode(TextExample("ab", "c", ""), train_on="all")
    assert row == EncodedRow([97, 98, 99, EOS], [False, True, True, True])
    tokenizer = BYTES.with_chat_template(CHATML)
    [row] = encode(
        TextExample([USER], [answer("A"), USER, answer("B")], ""), tokenizer, train_on="all"
    )
    assert row.trained == [False] + [True] * (len(row.ids) - 1)


def test_pair_shares_the_prompt() -> None:
    rows = encode(PairExample("ab", " c", " de", None, ""))
    assert [row.ids for row in rows] == [[97, 98, 32, 99, EOS], [97, 98, 32, 100, 101, EOS]]
    assert [trained_text(row) for row in rows] == [" c<|endoftext|>", " de<|endoftext|>"]


def test_later_turns_of_a_transcript_are_not_trained_on() -> None:
    prompt, rest = "\n\nHuman: q\n\nAssistant:", " one\n\nHuman: r\n\nAssistant: two"
    first, second = encode(PairExample(prompt, rest, " three", None, ""))
    assert trained_text(first) == " one two<|endoftext|>"
    assert BYTES.decode(first.ids) == prompt + rest + "<|endoftext|>"
    assert trained_text(second) == " three<|endoftext|>"


def test_chat() -> None:
    [row] = encode(TextExample([USER], [answer("Yes")], ""))
    assert BYTES.decode(row.ids) == "<|user|>\nHi\n<|assistant|>\nYes<|endoftext|>"
    assert trained_text(row) == "Yes<|endoftext|>"


def test_chat_trains_on_every_answer_and_on_nothing_behind_its_eos() -> None:
    tokenizer = BYTES.with_chat_template(CHATML)
    [row] = encode(TextExample([USER], [answer("A"), USER, answer("B")], ""), tokenizer)
    assert (
        tokenizer.decode(row.ids)
        == "<user>Hi<assistant>A<|endoftext|>\n<user>Hi<assistant>B<|endoftext|>"
    )
    assert trained_text(row) == "A<|endoftext|>B<|endoftext|>"


def test_chat_template_without_eos_gets_one() -> None:
    tokenizer = BYTES.with_chat_template(CHATML.replace("eos_token + ", ""))
    [row] = encode(TextExample([USER], [answer("A")], ""), tokenizer)
    assert trained_text(row) == "A\n<|endoftext|>"


def test_chat_prompt_is_a_prefix_of_every_row() -> None:
    example = PairExample([USER], [answer("A")], [answer("BC")], None, "")
    prompt = BYTES.encode(BYTES.apply_chat_template([USER], add_generation_prompt=True))
    assert all(
        row.ids[: len(prompt)] == prompt and not any(row.trained[: len(prompt)])
        for row in encode(example)
    )


def test_unstable_template_is_refused() -> None:
    tokenizer = BYTES.with_chat_template("{{ messages | length }}" + CHATML)
    with pytest.raises(
        BadRow, match="the chat template changes earlier turns when an answer follows"
    ):
        encode(TextExample([USER], [answer("A")], ""), tokenizer)


def test_template_that_refuses_a_role_is_a_bad_row() -> None:
    tokenizer = BYTES.with_chat_template("{{ raise_exception('no') }}")
    with pytest.raises(BadRow, match="the chat template refuses these messages: no"):
        encode(TextExample([USER], [answer("A")], ""), tokenizer)


def test_bos_of_the_tokenizer_leads_plain_prompts(tmp_path) -> None:
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 256)]
    )
    tokenizer.save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert encode(TextExample("ab", "c", ""), tokenizer)[0].ids == [256, 97, 98, 99, EOS]
    [row] = encode(TextExample(None, "ab", ""), tokenizer)
    assert row == EncodedRow([256, 97, 98, EOS], [False, True, True, True])
    config = DataConfig(path="x", max_length=4)
    chunk = tokenize_chunk([TextExample("abcdef", "xy", "")], tokenizer, config)
    # BOS stays when the prompt loses its start
    assert chunk.arrays[0].tolist() == [256, 102, 120, 121]


def with_bos(tmp_path) -> FastTokenizer:
    """A tokenizer that puts BOS in front of plain text, as Llama's does."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 256)]
    )
    tokenizer.save(tmp_path)
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "example",
    [
        TextExample("<|bos|>ab", "c", "f:1"),
        TextExample(None, "<|bos|>abc", "f:1"),
        PairExample("<|bos|>ab", "c", "d", None, "f:1"),
    ],
)
def test_text_that_was_rendered_before_gets_no_second_bos(tmp_path, example) -> None:
    tokenizer = with_bos(tmp_path)
    assert encode(example, tokenizer)[0].ids == [256, 97, 98, 99, EOS]
    chunk = tokenize_chunk([example], tokenizer, DataConfig(path="x"))
    assert [(where, note.kind, note.detail) for where, note in chunk.notes] == [
        ("f:1", SECOND_BOS, "'<|bos|>'")
    ]
    plain = tokenize_chunk([TextExample("ab", "<|bos|>", "f:1")], tokenizer, DataConfig(path="x"))
    assert plain.notes == [] and plain.arrays[0].tolist() == [256, 97, 98, 256, EOS]


def test_a_rendered_prompt_gets_no_second_bos(tmp_path) -> None:
    tokenizer = with_bos(tmp_path)
    config = DataConfig(path="x")
    items = [
        render_prompt(PromptExample(text, {}, ""), tokenizer)
        for text in ("<|bos|>ab", "ab", "", "<|bos|>")
    ]
    assert [prompt for prompt, _ in encode_rows(items, tokenizer, config)] == [
        [256, 97, 98],
        [256, 97, 98],
        [256],
        [256],
    ]
    assert [[note.kind for note in item.notes] for item in items] == [
        [SECOND_BOS],
        [],
        [],
        [SECOND_BOS],
    ]


def test_plain_text_that_ends_with_a_stop_gets_no_eos() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.stop_ids = (EOS, tokenizer.backend.token_to_id("<|reserved|>"))
    for text, added in (
        ("a<|reserved|>", 0),
        ("a<|reserved|>\n", 0),
        ("a<|endoftext|>", 0),
        ("<|reserved|>a", 1),
        ("a\n", 1),
    ):
        for example in (TextExample("q", text, ""), TextExample(None, text, "")):
            [row] = encode(example, tokenizer)
            assert (row.ids[-1] == EOS and row.ids[-2:] != [EOS, EOS]) == (
                added == 1 or text.endswith("<|endoftext|>")
            )
            assert len(row.ids) == len(
                tokenizer.encode(text.rstrip() if not added else text)
            ) + added + (example.prompt is not None)


@pytest.mark.parametrize(
    "tail",
    ["\n", "\n\n", " \n", "\n<|endoftext|>", "<|endoftext|><|endoftext|>", "\n<|reserved|>\n"],
)
def test_a_rendered_completion_ends_with_its_stop(tail: str) -> None:
    """As a rollout does, and as a row of the template: nothing behind it is trained on."""
    tokenizer = byte_tokenizer()
    tokenizer.stop_ids = (EOS, tokenizer.backend.token_to_id("<|reserved|>"))
    text = "a <|reserved|> b<|reserved|>"  # one in the middle ends nothing
    pair = PairExample("q", text + tail, "c" + tail, None, "")
    for example in (TextExample("q", text + tail, ""), TextExample(None, text + tail, ""), pair):
        row = encode(example, tokenizer)[0]
        assert tokenizer.decode(row.ids).endswith(text) and row.trained[-1]


def test_tools_and_kwargs_without_a_conversation_are_noted() -> None:
    for chat, name in (
        (ChatOptions([{"name": "add"}]), "tools"),
        (ChatOptions(None, {"enable_thinking": False}), "chat_template_kwargs"),
    ):
        chunk = tokenize_chunk([TextExample("q", "a", "f:1", chat)], BYTES, DataConfig(path="x"))
        assert [(note.kind, note.detail) for _, note in chunk.notes] == [(NO_CHAT, name)]


def test_token_rows_are_taken_as_they_are() -> None:
    config = DataConfig(path="x", max_length=4)
    rows_ = [
        TokenExample([5, 6, 7], [False, True, True], "f:1"),
        TokenExample([5, 6, 7, 8, 9], [False] + [True] * 4, "f:2"),
        TokenExample([5, 999], [True, True], "f:3"),
    ]
    chunk = tokenize_chunk(rows_, BYTES, config)
    assert chunk.arrays[0].tolist() == [5, 6, 7, 5, 6, 7, 8] and chunk.arrays[2].tolist() == [3, 4]
    assert chunk.arrays[1].tolist() == [False, True, True, False, True, True, True]
    assert chunk.bad == [
        ("f:3", "unknown token", "column 'input_ids' holds 999, the tokenizer has ids up to 263")
    ]
    assert chunk.shortened == 1


PROMPT, ANSWER, LONG = list(range(10)), [50, 51, 52, 53], list(range(60, 80))


def rows(*completions: list[int]) -> list[EncodedRow]:
    return [EncodedRow(ids, [True] * len(ids)) for ids in completions]


def cut(*completions: list[int], prompt: list[int] = PROMPT, **options) -> list[list[int]]:
    return [row.ids for row in fit(prompt, rows(*completions), DataConfig(path="x", **options))[0]]


KEEP_END, KEEP_START, DROP = ({"truncation": name} for name in ("keep_end", "keep_start", "drop"))


def test_rows_that_fit_are_left_alone() -> None:
    for policy in (KEEP_END, KEEP_START, DROP):
        config = DataConfig(path="x", max_length=14, **policy)
        joined, is_cut = fit(PROMPT, rows(ANSWER), config)
        assert (joined[0].ids, is_cut) == (PROMPT + ANSWER, False)
        assert joined[0].trained == [False] * 10 + [True] * 4


def test_keep_end() -> None:
    assert cut(ANSWER, max_length=12) == [PROMPT[2:] + ANSWER]
    assert cut(ANSWER, LONG[:6], max_length=12) == [PROMPT[4:] + ANSWER, PROMPT[4:] + LONG[:6]]
    assert cut(LONG, max_length=12) == [PROMPT[4:] + LONG[:6]]  # the prompt keeps half
    assert cut(ANSWER, max_length=100, max_prompt_len=3) == [PROMPT[7:] + ANSWER]
    assert cut(ANSWER, max_length=2) == [PROMPT[9:] + ANSWER[:1]]
    assert cut(LONG, prompt=[], max_length=6) == [LONG[:6]]


def answers(*lengths: int) -> EncodedRow:
    """Answers of so many tokens each, with 10 tokens of a question between them."""
    ids: list[int] = []
    trained: list[bool] = []
    for number, length in enumerate(lengths):
        gap = 10 if number else 0
        ids += [1] * gap + [60 + number] * length
        trained += [False] * gap + [True] * length
    return EncodedRow(ids, trained)


@pytest.mark.parametrize(
    ("length", "completion", "kept_prompt", "kept_answers"),
    [
        (60, (20, 50), 60, 20),  # fits with the first answer: whole
        (55, (20, 18, 40), 55, 20),
        (80, (20, 18, 40), 80, 20),
        (40, (20, 18, 40), 40, 48),  # as many answers as fit beside it
        (90, (20, 18, 40), 52, 48),  # does not fit even so: what half of the row leaves
        # nothing is lost beside half of the row: the start of the prompt goes
        (55, (20, 18), 52, 48),
        (60, (70, 5), 50, 50),  # the first answer alone is too long
        (60, (70,), 50, 50),
    ],
)
def test_later_answers_go_before_the_question(
    length, completion, kept_prompt, kept_answers
) -> None:
    prompt = list(range(100, 100 + length))
    config = DataConfig(path="x", max_length=100)
    row = answers(*completion)
    for joined in (fit(prompt, [row], config)[0], fit(prompt, [row, answers(5)], config)[0]):
        expected = prompt[length - kept_prompt :] + row.ids[:kept_answers]
        assert joined[0].ids == expected
        assert sum(joined[0].trained) == sum(row.trained[:kept_answers])


def test_a_question_of_a_conversation_stays_whole_where_later_turns_go() -> None:
    question, tokenizer = {"role": "user", "content": "q" * 60}, BYTES.with_chat_template(CHATML)
    example = TextExample([question], [answer("A" * 5), USER, answer("B" * 60)], "f:1")
    made = tokenize_chunk([example], tokenizer, DataConfig(path="x", max_length=100))
    [whole] = encode(TextExample([question], [answer("A" * 5)], ""), tokenizer)
    assert made.arrays[0].tolist() == whole.ids and made.shortened == 1


def test_keep_start() -> None:
    assert cut(ANSWER, max_length=12, **KEEP_START) == [PROMPT + ANSWER[:2]]
    assert cut(ANSWER, LONG, max_length=12, **KEEP_START) == [
        PROMPT + ANSWER[:2],
        PROMPT + LONG[:2],
    ]


DROPPED = [
    (KEEP_START, {"max_length": 10}, (ANSWER,), "prompt too long"),
    (KEEP_START, {"max_length": 20, "max_prompt_len": 9}, (ANSWER,), "prompt too long"),
    (DROP, {"max_length": 13}, (ANSWER,), "too long"),
    (DROP, {"max_length": 14}, (ANSWER, LONG), "too long"),
    (DROP, {"max_length": 20, "max_prompt_len": 9}, (ANSWER,), "too long"),
    (KEEP_END, {"max_length": 4}, (LONG, [60, 61, 99]), "no difference"),
    (KEEP_START, {"max_length": 12}, ([1, 2, 3], [1, 2, 4]), "no difference"),
]


@pytest.mark.parametrize(("policy", "options", "completions", "reason"), DROPPED)
def test_dropped(policy: dict, options: dict, completions: tuple, reason: str) -> None:
    with pytest.raises(Dropped) as caught:
        cut(*completions, **policy, **options)
    assert caught.value.args == (reason,)


def test_a_row_without_a_trained_token_is_dropped() -> None:
    config = DataConfig(path="x", max_length=12)
    with pytest.raises(Dropped, match="no completion token"):
        fit([], [EncodedRow([5], [True])], config)  # nothing predicts a lone first token
    late = EncodedRow([1] * 20, [False] * 19 + [True])
    with pytest.raises(Dropped, match="no completion token"):
        fit(PROMPT, [late], config)


def test_chunk_counts_what_it_leaves_out() -> None:
    examples = [
        TextExample("ab", "c", "f:1"),
        TextExample("a" * 50, "c", "f:2"),
        TextExample("ab", "c" * 50, "f:3"),
        TextExample([USER], [answer("A")], "f:4"),
    ]
    tokenizer = BYTES.with_chat_template("{{ messages | length }}" + CHATML)
    chunk = tokenize_chunk(
        examples, tokenizer, DataConfig(path="x", max_length=20, truncation="keep_start")
    )
    assert chunk.arrays[2].tolist() == [4, 20]
    assert (dict(chunk.dropped), chunk.shortened) == ({"prompt too long": 1}, 1)
    assert [(where, reason) for where, reason, _ in chunk.bad] == [("f:4", "chat template")]
