"""Judged single answers: labels, pairs taken apart, and the answers of other prompts."""

import json
import logging

import numpy as np
import pytest

from rlhf_jax.data import BadRow, DataConfig, DataError, byte_tokenizer, load_examples, make_loader
from rlhf_jax.data.formats import detect_format
from rlhf_jax.data.kinds import JudgedExample
from rlhf_jax.data.unpaired import balance, read_label, with_unrelated

BYTES = byte_tokenizer()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def judged(prompts):
    return [JudgedExample(p, f"{p}{n}", n % 2 == 0, f"row {n}") for n, p in enumerate(prompts)]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (1.0, True),
        ("True", True),
        (" false", False),
        ("0", False),
        ("yes", True),
    ],
)
def test_labels(value, label):
    assert read_label({"label": value}) is label


@pytest.mark.parametrize("value", [None, "good", 2, 0.5, [], ""])
def test_what_is_no_label(value):
    with pytest.raises(BadRow, match="column 'label' is .*: true .a desirable answer. or false"):
        read_label({"label": value})


def test_columns_that_do_not_fit_are_told_with_the_mapping():
    config = DataConfig(path="x")
    row = {"prompt": "a", "completion": "b", "labels": True}
    with pytest.raises(DataError) as error:
        detect_format([row], "unpaired", config, "rows.jsonl")
    assert "unpaired data needs prompt+completion+label or chosen+rejected" in str(error.value)
    assert str(error.value).endswith("did you mean data.columns={label: labels}?")
    with pytest.raises(DataError, match="map names with data.columns.$"):
        detect_format([{"question": "a", "text": "b"}], "unpaired", config, "rows.jsonl")
    assert detect_format([row | {"label": True}], "unpaired", config, "x") == "unpaired"
    assert detect_format([{"chosen": "a", "rejected": "b"}], "unpaired", config, "x") == (
        "preference"
    )


@pytest.mark.parametrize(
    ("prompts", "unrelated"),
    [
        ("abc", ["c2", "a0", "b1"]),
        ("aabb", ["b2", "b3", "a0", "a1"]),  # pairs: every answer is passed on once
        ("aab", ["b2", "b2", "a0"]),
        ("abb", ["b1", "a0", "a0"]),
        ("aba", ["b1", "a0", "b1"]),  # the last row has the first one's prompt
    ],
)
def test_each_row_gets_an_answer_to_another_prompt(prompts, unrelated):
    dealt = with_unrelated(judged(prompts), "x")
    assert [row.unrelated for row in dealt] == unrelated
    assert all(row.unrelated[0] != row.prompt for row in dealt)


def test_one_prompt_alone_is_refused():
    with pytest.raises(DataError, match="x: all 3 rows have the same prompt, and the KL of KTO"):
        with_unrelated(judged("aaa"), "x")


def test_balance():
    labels = np.array([True] * 3 + [False] * 12)
    assert balance(labels) == (
        "3 desirable, 12 undesirable answers; KTO eq. 8 asks for desirable_weight from 4.00 to "
        "5.33 times undesirable_weight"
    )
    assert balance(labels[:3]).endswith("with one kind alone the policy learns no difference")
    assert balance(np.array([True, True, True, False, False, False])) == (
        "3 desirable, 3 undesirable answers"
    )


def test_pairs_are_taken_apart(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        [{"prompt": f"{n}:", "chosen": f"yes{n}", "rejected": f"no{n}"} for n in range(3)],
    )
    rows = load_examples(DataConfig(path=path), kind="unpaired").rows
    assert [(row.prompt, row.completion, row.label) for row in rows[:2]] == [
        ("0:", "yes0", True),
        ("0:", "no0", False),
    ]
    assert [row.unrelated for row in rows] == ["yes2", "no2", "yes0", "no0", "yes1", "no1"]


def loader_of(path, **options):
    config = DataConfig(path=path, pad_multiple=1, shuffle=False, **options)
    return make_loader(config, BYTES, kind="unpaired", batch_size=4, seed=0)


def texts(batch, row):
    return [
        BYTES.decode([int(t) for t in batch.tokens[row, side][batch.mask[row, side]]])
        for side in range(2)
    ]


def test_batches(tmp_path, caplog):
    rows = [{"prompt": f"{n}:", "completion": "c" * (n + 1), "label": n != 1} for n in range(3)]
    with caplog.at_level(logging.INFO):
        loader = loader_of(write(tmp_path / "u.jsonl", rows))
    assert "2 desirable, 1 undesirable answers; KTO eq. 8 asks for" in caplog.text
    batch = loader.batch(0)
    assert batch.label.tolist() == [True, False, True, False]
    assert batch.valid.tolist() == [True, True, True, False]
    assert texts(batch, 0) == ["0:c<|endoftext|>", "0:ccc<|endoftext|>"]
    assert texts(batch, 1) == ["1:cc<|endoftext|>", "1:c<|endoftext|>"]
    assert batch.completion_mask[1, 0].sum() == 3 and not batch.mask[3].any()


def test_an_unrelated_answer_takes_nothing_from_the_row(tmp_path):
    """It is cut to what is left; an equal one is no reason to leave the row out."""
    rows = [
        {"prompt": "p" * 20, "completion": "yes", "label": True},
        {"prompt": "q", "completion": "n" * 60, "label": False},
        {"prompt": "r", "completion": "yes", "label": True},
        {"prompt": "s", "completion": "yes", "label": True},
    ]
    loader = loader_of(write(tmp_path / "u.jsonl", rows), max_length=30)
    batch = loader.batch(0)
    assert texts(batch, 0)[0] == "p" * 20 + "yes<|endoftext|>"
    assert texts(batch, 2) == ["ryes<|endoftext|>", "r" + "n" * 29]
    assert texts(batch, 3) == ["syes<|endoftext|>"] * 2
    assert loader.shortened == 1 and loader.num_examples == 4


def test_conversations(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"q{n}"}],
            "completion": [{"role": "assistant", "content": f"a{n}"}],
            "label": bool(n),
        }
        for n in range(2)
    ]
    batch = loader_of(write(tmp_path / "u.jsonl", rows)).batch(0)
    own, other = texts(batch, 0)
    assert own.replace("a0", "a1") == other and "q0" in own and "q0" in other


def test_text_files_without_types(tmp_path):
    path = tmp_path / "u.csv"
    path.write_text("prompt,completion,label\na,b,True\nc,d,0\n", encoding="utf-8")
    assert loader_of(str(path)).batch(0).label.tolist() == [True, False, False, False]


def test_kept_tokens_keep_their_labels(tmp_path):
    rows = [{"prompt": f"{n}", "completion": "c", "label": n % 2 == 0} for n in range(4)]
    config = DataConfig(path=write(tmp_path / "u.jsonl", rows), shuffle=False)
    options = {"kind": "unpaired", "batch_size": 4, "seed": 0, "cache_dir": tmp_path / "cache"}
    first, second = (make_loader(config, BYTES, **options).batch(0) for _ in range(2))
    assert first.label.tolist() == second.label.tolist() == [True, False, True, False]
