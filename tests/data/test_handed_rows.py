"""Rows in memory: named by their content, read like a file, refused in one line."""

import datetime
import decimal
import json

import datasets
import numpy as np
import pytest

from rlhf_jax.data import DataConfig, DataError, byte_tokenizer, load_examples, make_loader
from rlhf_jax.data.handed_rows import hand_rows
from rlhf_jax.data.tokenize import data_fingerprint
from rlhf_jax.handed import handing

ROWS = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(9)]


def test_equal_rows_have_equal_names():
    name = hand_rows(ROWS).name
    assert name.startswith("<9 rows ") and name.endswith(">")
    same = ([dict(reversed(row.items())) for row in ROWS], iter(ROWS))
    assert hand_rows(same[0]).name == hand_rows(same[1]).name == name
    assert hand_rows(datasets.Dataset.from_list(ROWS)).name == name
    other = [*ROWS[:-1], {"prompt": "8+1=", "completion": "10"}]
    assert hand_rows(other).name != name and hand_rows(ROWS[::-1]).name != name


def test_they_are_read_as_a_file_is(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    of_file = load_examples(DataConfig(path=str(path)), kind="text").rows
    tokenizer = byte_tokenizer()
    for given in (ROWS, datasets.Dataset.from_list(ROWS)):
        rows = hand_rows(given)
        config = DataConfig(path=rows.name, eval_size=2, max_length=16)
        with handing({rows.name: rows.rows}):
            examples = load_examples(DataConfig(path=rows.name), kind="text").rows
            loader = make_loader(config, tokenizer, kind="text", batch_size=4, seed=0)
            held_out = load_examples(config, kind="text", split="eval").rows
        assert [e._replace(where="") for e in examples] == [e._replace(where="") for e in of_file]
        assert examples[2].where == f"{rows.name} row 3"
        assert (loader.num_examples, len(held_out)) == (7, 2)


def test_the_fingerprint_is_of_their_content(tmp_path):
    tokenizer = byte_tokenizer()

    def fingerprint(given):
        rows = hand_rows(given)
        with handing({rows.name: rows.rows}):
            return data_fingerprint(DataConfig(path=rows.name), tokenizer, "text", "train")

    assert fingerprint(ROWS) == fingerprint(list(ROWS)) != fingerprint(ROWS[:-1])


def test_a_copy_is_taken():
    given = [{"prompt": "a", "tags": ["x"], "number": np.float32(0.5), "ids": np.arange(2)}]
    rows = hand_rows(given).rows
    given[0]["tags"].append("y")
    assert rows == [{"prompt": "a", "tags": ["x"], "number": 0.5, "ids": [0, 1]}]
    assert type(rows[0]["number"]) is float


def test_values_beyond_json_have_a_fingerprint():
    row = {
        "prompt": "a",
        "picture": b"\x00\xff",
        "day": datetime.date(2026, 1, 2),
        "price": decimal.Decimal("1.50"),
        "nothing": float("nan"),
    }
    name = hand_rows([row]).name
    assert name == hand_rows([dict(row)]).name
    assert name != hand_rows([row | {"day": datetime.date(2026, 1, 3)}]).name


class Stream:
    """Stands for a class of `datasets` with this name."""

    def __iter__(self):
        return iter(())


Stream.__name__ = "IterableDataset"
REFUSED = [
    ([], "data is empty: it holds no rows"),
    ("rows.jsonl", "data='rows.jsonl' is text: data takes rows, the place of a file is data.path"),
    (
        {"prompt": ["a", "b"]},
        "data is a dict of prompt: give one split, or rows as a list",
    ),
    (["a"], "data row 1 is a str, not a dict of columns"),
    (7, "data is a int: give a list of dicts"),
    (Stream(), "data is a stream, which has no end that is known"),
    ([{"prompt": "a"}, {"prompt": {1}}], r"data row 2: a set \(\{1\}\) is nothing that a row can"),
    (
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
        "data is a DatasetDict of train: give one split",
    ),
    (datasets.Dataset.from_list(ROWS).to_pandas(), "data is a DataFrame: give its rows"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda value: type(value).__name__)
def test_what_is_no_rows_is_one_line(given, message):
    with pytest.raises(DataError, match=f"^{message}") as caught:
        hand_rows(given)
    assert "\n" not in str(caught.value)


def test_a_name_without_its_rows_is_one_line():
    config = DataConfig(path=hand_rows(ROWS).name)
    message = r"^data.path=<9 rows \w+> was handed over by the program that started the run"
    with pytest.raises(DataError, match=message):
        load_examples(config, kind="text")
    with pytest.raises(DataError, match=message):
        data_fingerprint(config, byte_tokenizer(), "text", "train")


def test_they_have_one_split():
    rows = hand_rows(ROWS)
    with handing({rows.name: rows.rows}), pytest.raises(DataError, match="which has no splits"):
        load_examples(DataConfig(path=rows.name, split="test"), kind="text")
