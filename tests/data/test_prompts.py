"""Prompts: the layouts people have, order, random access, widths, cutting, and what is refused."""

import json
import pathlib

import datasets
import numpy as np
import pytest

from rlhf_jax.data import (
    DataConfig,
    DataError,
    PromptLoader,
    byte_tokenizer,
    load_examples,
    make_prompt_loader,
)
from rlhf_jax.data.cells import ASSISTANT
from tests.data.shapes import HERMES, LLAMA3, QWEN3, shaped_tokenizer

BYTES = byte_tokenizer()


def write(path: pathlib.Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def loader(
    path: str, *, max_prompt_len: int = 64, seed: int = 0, split="train", batch_size=None, **options
) -> PromptLoader:
    config = DataConfig(path=path, **{"pad_multiple": 8, **options})
    return make_prompt_loader(
        config, BYTES, max_prompt_len=max_prompt_len, seed=seed, split=split, batch_size=batch_size
    )


def texts(made: PromptLoader, indices) -> list[str]:
    batch = made.take(np.array(indices))
    return [
        BYTES.decode(row[:length])
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> str:
    sizes = np.random.default_rng(0).integers(1, 50, 37)
    rows = [{"prompt": f"{n}:" + "p" * int(size), "answer": str(n)} for n, size in enumerate(sizes)]
    return write(tmp_path_factory.mktemp("prompts") / "p.jsonl", rows)


def test_plain_prompts_with_columns(tmp_path):
    rows = [{"prompt": "1+1=", "answer": "2", "level": 1}, {"prompt": "10+1=", "answer": "11"}]
    batch = loader(write(tmp_path / "p.jsonl", rows)).take(np.array([1, 0, 1]))
    assert batch.indices.tolist() == [1, 0, 1] and batch.lengths.tolist() == [5, 4, 5]
    assert batch.tokens.shape == (3, 8) and (batch.tokens.dtype, batch.lengths.dtype) == (
        np.int32,
        np.int32,
    )
    assert (batch.tokens[1, 4:] == BYTES.pad_id).all()
    assert batch.prompts == ["10+1=", "1+1=", "10+1="]
    assert batch.columns == {"answer": ["11", "2", "11"], "level": [None, 1, None]}


def test_conversations_open_the_answer(tmp_path):
    chat = [{"role": "system", "content": "Sum."}, {"role": "user", "content": "1+1"}]
    made = loader(write(tmp_path / "p.jsonl", [{"prompt": chat, "solution": "2"}]))
    assert texts(made, [0]) == ["<|system|>\nSum.\n<|user|>\n1+1\n<|assistant|>\n"]
    batch = made.take(np.array([0]))
    assert batch.prompts == [chat] and batch.columns == {"solution": ["2"]}


def test_verl_rows(tmp_path):
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"{n}+1?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"index": n},
        }
        for n in range(3)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    batch = loader(str(tmp_path / "train.parquet")).take(np.array([2]))
    assert batch.columns["ground_truth"] == ["3"]
    assert batch.columns["reward_model"] == [rows[2]["reward_model"]] and batch.columns[
        "extra_info"
    ] == [{"index": 2}]
    assert batch.columns["data_source"] == ["openai/gsm8k"]
    assert batch.prompts == [rows[2]["prompt"]]


def test_questions_by_one_line(tmp_path):
    path = write(tmp_path / "q.jsonl", [{"question": "1+1?", "answer": "1+1=2\n#### 2"}])
    made = loader(path, columns={"prompt": "question"})
    assert texts(made, [0]) == ["1+1?"]
    assert made.take(np.array([0])).columns == {"answer": ["1+1=2\n#### 2"]}


def test_gsm8k(shared_data):
    options = {
        "columns": {"prompt": "question"},
        "eval_split": "test",
        "max_prompt_len": 1024,
        "batch_size": 8,
    }
    train, held_out = (
        loader(str(shared_data / "gsm8k"), split=split, **options) for split in ("train", "eval")
    )
    assert train.num_examples == 7473 and train.skipped == {} and held_out.num_examples > 100
    batch = train.take(train.indices(0, 8))
    assert all(
        "\n#### " in answer for answer in batch.columns["answer"]
    ) and batch.columns.keys() == {"answer"}
    assert batch.tokens.shape[1] in train.buckets and len(train.buckets) <= 4


def test_preference_pairs_as_prompts_hold_out_what_the_pairs_do(shared_data):
    options = {"eval_fraction": 0.1, "on_error": "skip"}
    path = str(shared_data / "hh-rlhf" / "pairs.jsonl")
    made = loader(path, split="eval", max_prompt_len=10_000, **options)
    pairs = load_examples(DataConfig(path=path, **options), kind="pairs", split="eval").rows
    batch = made.take(np.arange(made.num_examples))
    assert batch.prompts == [row.prompt for row in pairs]
    assert all(
        prompt.startswith("\n\nHuman:") and prompt.endswith(ASSISTANT) for prompt in batch.prompts
    )
    assert made.skipped == {"empty text": 4}


def test_order_is_a_function_of_seed_and_epoch(many):
    one, two, other = loader(many, seed=3), loader(many, seed=3), loader(many, seed=4)
    assert sorted(one.order(0).tolist()) == list(range(37))
    assert one.order(5).tolist() == two.order(5).tolist() != one.order(6).tolist()
    assert one.order(0).tolist() != other.order(0).tolist()
    assert loader(many, shuffle=False).order(9).tolist() == list(range(37))
    one.order(0)[:] = 0  # a copy: the loader's own order stays
    assert sorted(one.order(0).tolist()) == list(range(37))


def test_indices_run_through_the_epochs(many):
    made = loader(many)
    endless = np.concatenate([made.order(epoch) for epoch in range(4)]).tolist()
    for start, count in ((0, 5), (30, 10), (36, 1), (37, 1), (20, 100), (3, 0)):
        assert made.indices(start, count).tolist() == endless[start : start + count]


def test_any_batch_has_one_of_few_widths(many):
    made = loader(many, batch_size=4, num_buckets=3)
    assert 1 <= len(made.buckets) <= 3 and made.buckets == tuple(sorted(made.buckets))
    assert all(width % 8 == 0 for width in made.buckets)
    draw = np.random.default_rng(1)
    for _ in range(50):
        batch = made.take(draw.integers(0, 37, 4))
        assert (
            batch.tokens.shape[1] in made.buckets and batch.lengths.max() <= batch.tokens.shape[1]
        )


def test_widths_by_hand_end_where_they_suffice(many):
    assert loader(many, buckets=(16, 56, 512, 1024)).buckets == (16, 56)


def test_no_width_exceeds_the_limit(many):
    made = loader(many, max_prompt_len=45, truncation="keep_end")
    assert made.buckets[-1] == 45 and made.shortened > 0


def test_long_prompts(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "0123456789"}, {"prompt": "abc"}])
    cut = loader(path, max_prompt_len=6, truncation="keep_end")
    assert texts(cut, [0, 1]) == ["456789", "abc"] and (cut.shortened, cut.skipped) == (1, {})
    assert cut.take(np.array([0])).prompts == ["0123456789"], "rewards see the whole prompt"
    for truncation in (None, "drop", "keep_start"):
        dropped = loader(path, max_prompt_len=6, truncation=truncation)
        assert (dropped.num_examples, dropped.skipped) == (1, {"prompt too long": 1}) and texts(
            dropped, [0]
        ) == ["abc"]
    with pytest.raises(
        DataError,
        match=r"no prompt of .*p.jsonl can be used with max_prompt_len 2 and truncation "
        r"'drop': prompt",
    ):
        loader(path, max_prompt_len=2, truncation="drop")


def test_a_cut_prompt_keeps_the_special_tokens_that_open_it(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": [{"role": "user", "content": "0123456789"}]}])
    template = "{{ bos_token }}{{ messages[0]['content'] }}"
    made = loader(path, max_prompt_len=6, chat_template=template, truncation="keep_end")
    assert made.take(np.array([0])).tokens.tolist()[0] == [BYTES.bos_id, *BYTES.encode("56789")]


def test_fingerprint(many, tmp_path):
    base = loader(many).fingerprint
    assert loader(many, seed=9, shuffle=False, batch_size=4, num_buckets=1).fingerprint == base
    assert loader(many, max_prompt_len=32).fingerprint != base
    assert loader(many, prompt_template="{prompt}?").fingerprint != base
    text = pathlib.Path(many).read_text()
    (tmp_path / "other.jsonl").write_text(text.replace("0:p", "0:q"))
    assert loader(str(tmp_path / "other.jsonl")).fingerprint != base


def test_bad_rows(tmp_path):
    ends = {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = write(
        tmp_path / "p.jsonl",
        [{"prompt": "a"}, ends, {"prompt": "a", "completions": "x"}, {"prompt": " "}],
    )
    made = loader(path, on_error="skip")
    assert made.num_examples == 1
    assert made.skipped == {"no question": 1, "reserved column": 1, "empty text": 1}
    path = write(tmp_path / "q.jsonl", [{"prompt": "a"}, ends])
    with pytest.raises(
        DataError,
        match=r"q.jsonl:2: column 'prompt' ends with an answer, .* \(bad row 1 of 1; "
        r"data.on_error=skip",
    ):
        loader(path)
    path = write(tmp_path / "r.jsonl", [{"prompt": "a", "completion_ids": [1]}])
    with pytest.raises(
        DataError,
        match="column 'completion_ids' is an argument of reward functions: rename it with "
        "data.columns",
    ):
        loader(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": True}, "data.packing is for rows with answers: prompts have none"),
        ({"train_on": "all"}, "data.train_on 'all' is for rows with answers: prompts have none"),
        (
            {"append_eos": False},
            "data.append_eos false is for rows with answers: prompts have none",
        ),
        ({"max_prompt_len": 0}, "max_prompt_len 0 must be at least 1"),
        (
            {"buckets": (8, 1024), "max_prompt_len": 2000},
            "data.buckets [8, 1024] end below max_prompt_len 2000: the last must reach it",
        ),
    ],
)
def test_options_without_a_meaning_are_refused(many, options, message):
    with pytest.raises(DataError) as error:
        loader(many, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("indices", [[-1], [37], []])
def test_indices_out_of_range(many, indices):
    with pytest.raises(IndexError, match="are not from 0 to 36"):
        loader(many).take(np.array(indices))


def shaped_texts(shape, path: str, *, max_prompt_len: int = 400, **options) -> list[str]:
    tokenizer = shaped_tokenizer(shape)
    made = make_prompt_loader(
        DataConfig(path=path, **options), tokenizer, max_prompt_len=max_prompt_len, seed=0
    )
    batch = made.take(np.arange(made.num_examples))
    return [
        tokenizer.decode(row[:length].tolist())
        for row, length in zip(batch.tokens, batch.lengths, strict=True)
    ]


def test_kwargs_and_tools_of_rows_and_of_the_run(tmp_path):
    ask = [{"role": "user", "content": "q"}]
    row_tools = [{"type": "function", "function": {"name": "mine"}}]
    rows = [
        {"prompt": ask},
        {
            "prompt": ask,
            "chat_template_kwargs": {"enable_thinking": True},
            "tools": json.dumps(row_tools),
        },
    ]
    path = write(tmp_path / "p.jsonl", rows)
    quiet, thinking = "assistant\n<think>\n\n</think>\n\n", "assistant\n"
    assert [text.endswith(quiet) for text in shaped_texts(QWEN3, path)] == [False, False]
    first, second = shaped_texts(QWEN3, path, chat_template_kwargs={"enable_thinking": False})
    assert first.endswith(quiet) and second.endswith(thinking), "a row's own value comes first"
    first, second = shaped_texts(
        HERMES, path, tools=({"type": "function", "function": {"name": "run"}},)
    )
    assert (
        '"run"' in first and '"mine"' not in first and '"mine"' in second and '"run"' not in second
    )
    batch = loader(path).take(np.array([0, 1]))
    assert batch.columns["tools"] == [None, json.dumps(row_tools)], "rewards still see the column"


def test_long_conversations_are_left_out_or_lose_whole_turns(tmp_path, caplog):
    system = {"role": "system", "content": "Answer in French."}
    turns = [
        {"role": "user", "content": "x" * 99},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "How?"},
    ]
    path = write(tmp_path / "p.jsonl", [{"prompt": [system, *turns]}, {"prompt": turns[2:]}])
    with caplog.at_level("WARNING"):
        assert [text.count("user") for text in shaped_texts(LLAMA3, path, max_prompt_len=90)] == [1]
    assert caplog.messages == [
        f"{path}: 1 of 2 prompts (50.0 %) left out: longer than rollout.max_prompt_len 90 "
        "(data.truncation=keep_end cuts them)"
    ]
    caplog.clear()
    with caplog.at_level("WARNING"):
        first, second = shaped_texts(LLAMA3, path, max_prompt_len=90, truncation="keep_end")
    tokenizer = shaped_tokenizer(LLAMA3)
    assert first == tokenizer.apply_chat_template([system, turns[2]], True)
    assert second == tokenizer.apply_chat_template(turns[2:], True)
    assert caplog.messages == [
        f"{path}: 1 of 2 rows (50.0 %) shortened to rollout.max_prompt_len 90"
    ]
    with pytest.raises(
        DataError,
        match="can be used with max_prompt_len 8 and truncation 'keep_end': prompt too long 2",
    ):
        shaped_texts(LLAMA3, path, max_prompt_len=8, truncation="keep_end")


def test_a_stop_that_rollouts_do_not_know_is_a_warning(tmp_path, caplog):
    path = write(tmp_path / "p.jsonl", [{"prompt": [{"role": "user", "content": "q"}]}])
    for stops, said in ((None, False), (("<|endoftext|>",), True)):
        caplog.clear()
        with caplog.at_level("WARNING"):
            make_prompt_loader(
                DataConfig(path=path), shaped_tokenizer(QWEN3, stops), max_prompt_len=99, seed=0
            )
        assert (
            "ends an answer with '<|im_end|>', at which the tokenizer's stops do not end a rollout"
            in caplog.text
        ) == said
