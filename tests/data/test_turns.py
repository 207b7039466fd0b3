"""Conversations as the model sees them, over templates of all shapes: what is trained, said."""

import logging
import re
import warnings

import pytest

from rlhf_jax.data import BadRow, DataConfig, DataError, FastTokenizer, PairExample, TextExample
from rlhf_jax.data.encode import encode_rows, render_all
from rlhf_jax.data.messages import ChatOptions, Message
from rlhf_jax.data.spans import EncodedRow, check_stops
from rlhf_jax.data.templates import dropped_parts, squeeze
from rlhf_jax.data.tokenize import tokenize_chunk
from rlhf_jax.data.turns import DROPPED, LOST_TAIL, REWRITTEN
from tests.data.shapes import (
    CHATML,
    DROPS_THOUGHTS,
    GEMMA,
    GLM,
    GPT_OSS,
    HERMES,
    LLAMA3,
    MARKED,
    NO_STOP,
    PHI3,
    QWEN3,
    R1,
    REWRITES_BOTH,
    SHAPES,
    shaped_tokenizer,
)

NO_OPTIONS = ChatOptions()
CONFIG = DataConfig(path="x", max_length=4096)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def thought(reasoning: str, text: str) -> Message:
    return answer(f"<think>\n{reasoning}\n</think>\n\n{text}")


CONVERSATIONS = {
    "ua": [user("What is 2+2?"), answer("It is four.")],
    "uaua": [
        user("What is 2+2?"),
        answer("It is four."),
        user("And 3+3?"),
        answer("That makes six."),
    ],
    "think": [user("What is 2+2?"), thought("Let me add.", "It is four.")],
    "thinks": [
        user("What is 2+2?"),
        thought("Add.", "It is four."),
        user("And 3+3?"),
        thought("Again.", "Six."),
    ],
}


def chunk(
    tokenizer: FastTokenizer, messages: list[Message], chat: ChatOptions = NO_OPTIONS, **options
):
    config = DataConfig(path="x", max_length=4096, **options)
    return tokenize_chunk([TextExample(messages[:1], messages[1:], "f:1", chat)], tokenizer, config)


def rows_of(made) -> list[EncodedRow]:
    tokens, trained, lengths = made.arrays
    ends = lengths.cumsum()
    return [
        EncodedRow(tokens[end - size : end].tolist(), trained[end - size : end].tolist())
        for end, size in zip(ends, lengths, strict=True)
    ]


def spans(row: EncodedRow) -> list[list[int]]:
    found: list[list[int]] = []
    for position, (token, flag) in enumerate(zip(row.ids, row.trained, strict=True)):
        if flag and (position == 0 or not row.trained[position - 1]):
            found.append([])
        if flag:
            found[-1].append(token)
    return found


def trained_texts(tokenizer: FastTokenizer, messages: list[Message], **options) -> list[str]:
    made = chunk(tokenizer, messages, **options)
    assert not made.bad, made.bad
    return [tokenizer.decode(span) for row in rows_of(made) for span in spans(row)]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_answer_is_trained_on_with_its_stop(name: str, conversation: str) -> None:
    shape, messages = SHAPES[name], CONVERSATIONS[conversation]
    tokenizer = shaped_tokenizer(shape)
    made = chunk(tokenizer, messages)
    assert not made.bad and not made.dropped
    found = [span for row in rows_of(made) for span in spans(row)]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(found) == len(answers)
    is_noted = any(note.kind == DROPPED for _, note in made.notes)
    for span, text in zip(found, answers, strict=True):
        assert span[-1] in tokenizer.stop_ids and not set(span[:-1]) & set(tokenizer.stop_ids)
        written = squeeze(tokenizer.decode(span))
        assert squeeze(text.split("</think>")[-1]) in written
        assert not any(
            squeeze(message["content"]) in written
            for message in messages
            if message["role"] == "user"
        )
        keeps = all(squeeze(part) in written for part in re.split("</?think>", text))
        assert keeps or is_noted, "reasoning was left out in silence"
    if conversation == "ua":
        assert len(made.arrays[2]) == 1
    if conversation == "uaua":
        assert (len(made.arrays[2]) == 1) == shape.one_row
        assert made.unrolled == ((0, 0) if shape.one_row else (1, 2))
    if conversation == "think":
        assert shape.keeps_thoughts != is_noted


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("r1",)])
def test_what_stands_before_an_answer_is_what_the_model_sees(name: str, conversation: str) -> None:
    """The last answer of every row begins where sampling begins: behind the generation prompt."""
    tokenizer, messages = shaped_tokenizer(SHAPES[name]), CONVERSATIONS[conversation]
    rows = rows_of(chunk(tokenizer, messages))
    places = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for row, place in zip(rows, places[-len(rows) :], strict=True):
        begin = len(row.ids) - len(spans(row)[-1])
        history = messages[:place]
        if name == "parts":
            history = [
                {**message, "content": [{"type": "text", "text": message["content"]}]}
                for message in history
            ]
        if name == "glm":  # the stop is the next message's head: the row without it has EOS
            assert row.ids[-1] == tokenizer.eos_id
        assert row.ids[:begin] == tokenizer.encode(tokenizer.apply_chat_template(history, True))


def test_templates_that_only_append_keep_their_rows() -> None:
    """Prompt and answer are tokenised apart; only the newline behind a stop is untrained."""
    tokenizer = shaped_tokenizer(CHATML)
    [row] = rows_of(chunk(tokenizer, CONVERSATIONS["uaua"]))
    text = (
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\nIt is four.<|im_end|>\n"
    )
    text += "<|im_start|>user\nAnd 3+3?<|im_end|>\n<|im_start|>assistant\nThat makes six.<|im_end|>"
    assert row.ids == tokenizer.encode(text)
    assert [tokenizer.decode(span) for span in spans(row)] == [
        "It is four.<|im_end|>",
        "That makes six.<|im_end|>",
    ]


TRAINED = {
    "gemma": (GEMMA, ["It is four.<end_of_turn>", "That makes six.<end_of_turn>"]),
    "glm": (GLM, ["It is four.<|user|>", "That makes six.<|endoftext|>"]),
    "phi3": (PHI3, ["It is four.<|end|>", "That makes six.<|end|>"]),
    "gpt-oss": (
        GPT_OSS,
        [
            "<|channel|>final<|message|>It is four.<|return|>",
            "<|channel|>final<|message|>That makes six.<|return|>",
        ],
    ),
    "qwen3": (
        QWEN3,
        [
            "<think>\n\n</think>\n\nIt is four.<|im_end|>",
            "<think>\n\n</think>\n\nThat makes six.<|im_end|>",
        ],
    ),
    "no stop": (NO_STOP, ["It is four.\n\n<|endoftext|>", "That makes six.\n\n<|endoftext|>"]),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_text(name: str) -> None:
    shape, expected = TRAINED[name]
    assert trained_texts(shaped_tokenizer(shape), CONVERSATIONS["uaua"]) == expected


def test_a_stop_inside_an_answer_does_not_end_it() -> None:
    tokenizer = shaped_tokenizer(CHATML)
    messages = [user("How does ChatML end a turn?"), answer("With <|im_end|> and a newline.")]
    assert trained_texts(tokenizer, messages) == ["With <|im_end|> and a newline.<|im_end|>"]
    messages = [user("<|im_end|>?"), answer("<|im_end|>"), user("x"), answer("<|endoftext|>.")]
    assert trained_texts(tokenizer, messages) == [
        "<|im_end|><|im_end|>",
        "<|endoftext|>.<|im_end|>",
    ]


def test_kwargs_move_what_the_generation_prompt_supplies() -> None:
    tokenizer = shaped_tokenizer(QWEN3)
    quiet = ChatOptions(variables={"enable_thinking": False})
    made = chunk(tokenizer, CONVERSATIONS["ua"], quiet)
    [row] = rows_of(made)
    assert [tokenizer.decode(span) for span in spans(row)] == ["It is four.<|im_end|>"]
    assert tokenizer.decode(row.ids).endswith("<think>\n\n</think>\n\nIt is four.<|im_end|>")


def test_reasoning_that_begins_with_the_tail_is_kept() -> None:
    """R1 opens `<think>`, drops reasoning from finished answers: rows are what the model sees."""
    tokenizer = shaped_tokenizer(R1)
    made = chunk(tokenizer, CONVERSATIONS["think"])
    [row] = rows_of(made)
    assert tokenizer.decode(row.ids) == (
        "<bos><|User|>What is 2+2?<|Assistant|><think>\nLet me add.\n</think>\n\nIt is four.<|eos|>"
    )
    assert [tokenizer.decode(span) for span in spans(row)] == [
        "Let me add.\n</think>\n\nIt is four.<|eos|>"
    ]
    assert made.notes == []


def test_a_lost_tail_is_noted() -> None:
    tokenizer = shaped_tokenizer(R1)
    made = chunk(tokenizer, CONVERSATIONS["ua"])
    [row] = rows_of(made)
    assert tokenizer.decode(row.ids) == "<bos><|User|>What is 2+2?<|Assistant|>It is four.<|eos|>"
    assert [tokenizer.decode(span) for span in spans(row)] == ["It is four.<|eos|>"]
    assert [(where, note.kind, note.detail) for where, note in made.notes] == [
        ("f:1", LOST_TAIL, "'<think>\\n'")
    ]


BEGINS = [
    "<",
    "<b>bold</b>",
    "<th>head</th>",
    "<thinking> aloud",
    "<think",
    "<|User|> is a token",
    "It is four.",
]


@pytest.mark.parametrize("text", BEGINS)
@pytest.mark.parametrize("one_token", [False, True])
def test_an_answer_that_begins_like_the_tail_keeps_its_first_characters(
    text: str, one_token: bool
) -> None:
    tokenizer = shaped_tokenizer(R1._replace(special=(*R1.special, "<think>")) if one_token else R1)
    for history in ([user("Is <b> a tag?")], [user("<"), answer("<think>"), user("<think>?")]):
        made = tokenize_chunk([TextExample(history, [answer(text)], "f:1")], tokenizer, CONFIG)
        [row] = rows_of(made)
        assert [tokenizer.decode(span) for span in spans(row)] == [text + "<|eos|>"]
        assert tokenizer.decode(row.ids).endswith("<|Assistant|>" + text + "<|eos|>")
        assert [(note.kind, note.detail) for _, note in made.notes] == [(LOST_TAIL, "'<think>\\n'")]


@pytest.mark.parametrize("one_token", [False, True])
@pytest.mark.parametrize("begin", ["<think>", "<think>\n", "<think>\n\n", "<think> "])
def test_an_answer_that_begins_with_the_whole_tail_goes_on_behind_it(
    begin: str, one_token: bool
) -> None:
    """The generation prompt supplies it, one token or several; what follows it is trained on."""
    tokenizer = shaped_tokenizer(R1._replace(special=(*R1.special, "<think>")) if one_token else R1)
    made = tokenize_chunk(
        [TextExample([user("2+2?")], [answer(begin + "Four")], "f:1")], tokenizer, CONFIG
    )
    [row] = rows_of(made)
    text = tokenizer.decode(row.ids)
    assert text.startswith("<bos><|User|>2+2?<|Assistant|><think>\n") and text.count("<think>") == 1
    [span] = spans(row)
    assert tokenizer.decode(span).strip() == "Four<|eos|>"
    assert made.notes == []


def test_what_the_template_drops_is_noted() -> None:
    plain = chunk(shaped_tokenizer(DROPS_THOUGHTS), CONVERSATIONS["ua"])
    assert plain.notes == []
    made = chunk(shaped_tokenizer(DROPS_THOUGHTS), CONVERSATIONS["thinks"])
    assert [(note.kind, note.detail) for _, note in made.notes] == [(DROPPED, "reasoning")] * 2
    separate = [user("q"), {**answer("Six."), "reasoning_content": "Add."}]
    assert [note.detail for _, note in chunk(shaped_tokenizer(CHATML), separate).notes] == [
        "reasoning"
    ]
    call = {
        "role": "assistant",
        "content": "Wait.",
        "tool_calls": [{"function": {"name": "add", "arguments": {}}}],
    }
    assert [
        note.detail for _, note in chunk(shaped_tokenizer(CHATML), [user("q"), call]).notes
    ] == ["tool call"]


def test_an_answer_of_which_nothing_is_left_is_a_bad_row() -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "add", "arguments": {}}}],
    }
    template = CHATML.template.replace("message.content", "(message.content or '')")
    made = chunk(shaped_tokenizer(CHATML._replace(template=template)), [user("q"), call])
    assert made.bad == [
        ("f:1", "chat template", "the chat template writes nothing of an answer (its tool call)")
    ]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("called", "content", "later", "missing"),
    [
        ("add", "I add them.", "Three.", ["tool call"]),
        ("add", "I will.", "I add: 3", ["tool call"]),
        ("add", None, "I add: 3", None),
        ("end", None, "Three.", None),  # of <|im_end|>
        ("i", None, "It is 3", None),
    ],
)
def test_a_call_is_looked_for_in_the_piece_of_its_own_message(
    called, content, later, missing, marked
) -> None:
    """Not in what the answer says itself, in another answer, or in a stop."""
    shape = MARKED if marked else CHATML
    template = shape.template.replace("message.content", "(message.content or '')").replace(
        "m.content", "(m.content or '')"
    )
    call = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"function": {"name": called, "arguments": {}}}],
    }
    made = chunk(
        shaped_tokenizer(shape._replace(template=template)),
        [user("1+2?"), call, user("And?"), answer(later)],
    )
    if missing is None:
        assert made.bad == [
            (
                "f:1",
                "chat template",
                "the chat template writes nothing of an answer (its tool call)",
            )
        ]
    else:
        assert [(note.kind, note.detail) for _, note in made.notes] == [
            (DROPPED, part) for part in missing
        ] and not made.bad


def test_calls_that_are_written_are_found_in_whatever_form() -> None:
    call = {
        "role": "assistant",
        "content": "I call f.",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    for written in (
        '{"name": "f"}',
        "<function=f>{}</function>",
        "functions.f:0",
        "to=functions.f<|x|>",
        "[f(a=1)]",
        "call:f{}",
    ):
        assert dropped_parts(call, f"I call f. {written}<|endoftext|>") == []
        assert dropped_parts(call, f"{written}I call f.<|endoftext|>") == []
    assert dropped_parts(call, "I call f. <function=fg>{}</function>") == ["tool call"]


def test_a_template_that_rewrites_the_first_message_is_refused() -> None:
    tokenizer = shaped_tokenizer(
        CHATML._replace(template="{{ messages | length }}" + CHATML.template)
    )
    with pytest.raises(
        BadRow,
        match="changes earlier turns when an answer follows, so prompt and answer cannot be told "
        "apart",
    ):
        render_all(TextExample([user("Hi")], [answer("A")], ""), tokenizer)


def test_a_history_that_is_rewritten_with_the_answer() -> None:
    tokenizer = shaped_tokenizer(REWRITES_BOTH)
    rows = rows_of(chunk(tokenizer, CONVERSATIONS["thinks"]))
    assert len(rows) == 2
    assert "Add.\n</think>" in tokenizer.decode(rows[1].ids), (
        "the model still sees the reasoning before"
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_marks_are_transformers_marks(conversation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast
    tokenizer = shaped_tokenizer(MARKED)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend,
        bos_token="<bos>",
        eos_token="<|im_end|>",
        chat_template=MARKED.template,
    )
    messages = CONVERSATIONS[conversation]
    expected = theirs.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    [row] = rows_of(chunk(tokenizer, messages))
    newline = tokenizer.encode("\n")
    assert row.ids + newline == expected["input_ids"]
    mask = [bool(flag) for flag in expected["assistant_masks"]][: len(row.ids)]
    different = [index for index, flag in enumerate(row.trained) if flag != mask[index]]
    assert all(row.ids[index : index + 1] == newline and mask[index] for index in different)
    assert all(row.ids[index - 1] == tokenizer.eos_id for index in different), (
        "the newline behind the stop alone"
    )
    assert (
        len(different)
        == len([message for message in messages if message["role"] == "assistant"]) - 1
    )


def test_marks_without_their_stop_get_it() -> None:
    template = MARKED.template.replace(
        "{{- message.content + '<|im_end|>\\n' }}\n        {%- endgeneration %}",
        "{{- message.content }}\n        {%- endgeneration %}{{ '<|im_end|>\\n' }}",
    )
    assert template != MARKED.template
    assert trained_texts(
        shaped_tokenizer(MARKED._replace(template=template)), CONVERSATIONS["uaua"]
    ) == [
        "It is four.<|im_end|>",
        "That makes six.<|im_end|>",
    ]


def pair(chosen: list[Message], rejected: list[Message]) -> PairExample:
    return PairExample([user("What is 2+2?")], chosen, rejected, None, "f:1")


@pytest.mark.parametrize("name", SHAPES)
def test_pairs_keep_two_rows_that_share_their_prompt(name: str) -> None:
    tokenizer = shaped_tokenizer(SHAPES[name])
    example = pair([thought("Add.", "Four.")], [answer("Five.")])
    made = tokenize_chunk([example, pair([answer("Four.")], [answer("Five.")])], tokenizer, CONFIG)
    rows = rows_of(made)
    assert not made.bad and len(rows) == 4
    for chosen, rejected in (rows[:2], rows[2:]):
        for row, text in ((chosen, "Four."), (rejected, "Five.")):
            [span] = spans(row)
            assert text in tokenizer.decode(span) and span[-1] in tokenizer.stop_ids
        first = min(chosen.trained.index(True), rejected.trained.index(True))
        assert chosen.ids[:first] == rejected.ids[:first]


def test_pairs_of_several_answers_train_on_the_last_where_the_template_rewrites() -> None:
    longer = [answer("Four."), user("Sure?"), answer("Yes.")]
    made = tokenize_chunk([pair(longer, [answer("Five.")])], shaped_tokenizer(CHATML), CONFIG)
    assert made.notes == [] and len(spans(rows_of(made)[0])) == 2
    made = tokenize_chunk([pair(longer, [answer("Five.")])], shaped_tokenizer(QWEN3), CONFIG)
    assert [note.kind for _, note in made.notes] == [REWRITTEN]
    chosen = rows_of(made)[0]
    assert len(spans(chosen)) == 1


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL_FORMS = {
    "object": {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": "x"}}}],
    },
    "text": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1, "b": "x"}'}}],
    },
}
LATER = [{"role": "tool", "content": "3"}, answer("It is three.")]


@pytest.mark.parametrize("form", CALL_FORMS)
@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_tool_calls(name: str, form: str) -> None:
    call = {"content": None, **CALL_FORMS[form]}
    tokenizer = shaped_tokenizer(SHAPES[name])
    made = chunk(tokenizer, [user("1+2?"), call, *LATER], ChatOptions(TOOLS))
    assert not made.bad
    [row] = rows_of(made)
    first, second = (tokenizer.decode(span) for span in spans(row))
    assert '{"a": 1, "b": "x"}' in first and "None" not in first and '\\"' not in first
    assert second.startswith("It is three.")
    text = tokenizer.decode(row.ids)
    assert ("3<|im_end|>" if name == "hermes" else "3<|eot_id|>") in text
    assert ('"name": "add", "parameters"' in text.partition("user")[0]) == (name == "hermes")


def test_arguments_as_text_where_the_template_concatenates() -> None:
    template = HERMES.template.replace(
        "call.function.arguments | tojson + '}", "call.function.arguments + '}"
    )
    template = template.replace("{{- m.content }}", "{{- m.content + '' }}")
    tokenizer = shaped_tokenizer(HERMES._replace(template=template))
    for form in CALL_FORMS.values():
        texts = trained_texts(tokenizer, [user("1+2?"), {"content": None, **form}, *LATER])
        assert '{"a": 1, "b": "x"}}' in texts[0]
    printed = HERMES.template.replace(
        "call.function.arguments | tojson", "call.function.arguments ~ ''"
    )
    texts = trained_texts(
        shaped_tokenizer(HERMES._replace(template=printed)),
        [user("1+2?"), {"content": None, **CALL_FORMS["object"]}, *LATER],
    )
    assert '{"a": 1, "b": "x"}' in texts[0], "an object printed as Python writes it is no JSON"


def test_a_content_that_is_not_there_is_not_printed() -> None:
    template = HERMES.template.replace(
        "{%- if m.tool_calls %}", "{%- if m.tool_calls %}{{- m.content }}"
    )
    tokenizer = shaped_tokenizer(HERMES._replace(template=template))
    [first, _] = trained_texts(
        tokenizer, [user("None?"), {"content": None, **CALL_FORMS["object"]}, *LATER]
    )
    assert "None" not in first


def test_foreign_stop_is_refused() -> None:
    """ChatML on a base model whose EOS is another token: rollouts would run on behind answers."""
    tokenizer = shaped_tokenizer(CHATML, stops=("<|endoftext|>",))
    with pytest.raises(DataError) as caught:
        check_stops(tokenizer, CONFIG)
    assert str(caught.value) == (
        "the tokenizer's chat template ends an answer with '<|im_end|>', at which no rollout stops "
        "(that is '<|endoftext|>'): name it in rollout.stop, in eos_token_id of the model's "
        "generation_config.json, or as the tokenizer's eos_token"
    )
    with pytest.raises(
        DataError, match=r"^data.chat_template 'mine.jinja' ends an answer with '<\|im_end\|>'"
    ):
        check_stops(tokenizer, DataConfig(path="x", chat_template="mine.jinja"))
    with pytest.raises(DataError, match="ends an answer with '<end_of_turn>'"):
        check_stops(shaped_tokenizer(GEMMA, stops=("<eos>",)), CONFIG)


def test_check_of_stops_lets_the_others_pass(caplog) -> None:
    for shape in SHAPES.values():
        check_stops(shaped_tokenizer(shape), CONFIG)
    with pytest.raises(
        DataError,
        match=r"ends an answer with no token that stops a rollout .* data.append_eos is false",
    ):
        check_stops(shaped_tokenizer(NO_STOP), DataConfig(path="x", append_eos=False))
    check_stops(
        shaped_tokenizer(LLAMA3._replace(template="{{ raise_exception('tools!') }}")), CONFIG
    )
    assert not caplog.records
    template = MARKED.template.replace(
        "+ '<|im_end|>\\n' }}\n        {%- endgen", "+ '\\n' }}\n        {%- endgen"
    )
    with caplog.at_level(logging.WARNING):
        check_stops(shaped_tokenizer(MARKED._replace(template=template)), CONFIG)
    assert "do not teach the model to stop" in caplog.text


def test_encoding_many_is_encoding_each() -> None:
    for shape in SHAPES.values():
        tokenizer = shaped_tokenizer(shape)
        items = [
            rendered
            for messages in CONVERSATIONS.values()
            for _, rendered in render_all(TextExample(messages[:1], messages[1:], ""), tokenizer)
        ]
        together = encode_rows(items, tokenizer, CONFIG)
        assert together == [encode_rows([item], tokenizer, CONFIG)[0] for item in items]


def test_a_stop_inside_a_call_does_not_end_it() -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "say", "arguments": {"text": "<|im_end|>"}}}],
    }
    [text, _] = trained_texts(shaped_tokenizer(HERMES), [user("x"), call, *LATER])
    assert text.endswith('{"text": "<|im_end|>"}}\n</tool_call><|im_end|>')


def test_train_on_all_keeps_one_row() -> None:
    tokenizer = shaped_tokenizer(QWEN3)
    made = chunk(tokenizer, CONVERSATIONS["thinks"], train_on="all")
    [row] = rows_of(made)
    assert row.trained == [False] + [True] * (len(row.ids) - 1) and made.notes == []
    assert tokenizer.decode(row.ids).count("<|im_start|>") == 4
