"""Reading files, folders, saved datasets, the hub: rows with their place, one-line errors."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax.data import DataConfig, DataError, load_examples, text_rows
from rlhf_jax.data.raw_rows import read_rows, source_fingerprint
from rlhf_jax.data.sources import Source, eval_source, train_source

ROWS = [
    {"prompt": "a?", "completion": "b"},
    {"prompt": "c?", "completion": 'd, \u00e9\n"x"'},
    {"prompt": "e?", "completion": "f"},
]


def write_jsonl(path, rows=ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path, split: str = "train") -> list:
    return list(read_rows(Source(str(path), split), "text"))


def columns(path, split: str = "train") -> list:
    return [row.columns for row in read(path, split)]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "lines.json", "a.csv", "a.csv.gz", "a.parquet"]
)
def test_every_file_type_gives_the_same_rows(tmp_path, name: str) -> None:
    path = tmp_path / name
    data = datasets.Dataset.from_list(ROWS)
    if ".parquet" in name:
        data.to_parquet(str(path))
    elif ".csv" in name:
        data.to_csv(str(tmp_path / "plain.csv"))
        content = (tmp_path / "plain.csv").read_bytes()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    else:
        text = (
            json.dumps(ROWS)
            if name == "a.json"
            else "".join(json.dumps(row) + "\n" for row in ROWS)
        )
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert columns(path) == ROWS


def test_places(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": \n[1]\n{"text": "b"}', encoding="utf-8")
    rows = read(path)
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3", f"{path}:4", f"{path}:5"]
    assert [row.error and row.error.reason for row in rows] == [
        None,
        "invalid JSON",
        "wrong type",
        None,
    ]
    table = tmp_path / "a.csv"
    table.write_text(
        'text,n\n"two\nlines",1\nfour,2\nfive\nsix,3,4\n"sev"en,5\neight,6\n', encoding="utf-8"
    )
    rows = read(table)
    assert [row.where for row in rows] == [
        f"{table}:2",
        f"{table}:4",
        f"{table}:5",
        f"{table}:6",
        f"{table}:7",
        f"{table}:8",
    ]
    assert [row.error is not None for row in rows] == [False, False, True, True, True, False]
    assert {row.error.reason for row in rows if row.error} == {"invalid CSV"}
    assert rows[0].columns == {"text": "two\nlines", "n": "1"}


def test_a_line_separator_in_a_text_ends_no_line(tmp_path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "a\u2028b"}\n{"text": "c"}\n', encoding="utf-8")
        assert [row["text"] for row in columns(tmp_path / name)] == ["a\u2028b", "c"]


def test_verl_rows(tmp_path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "2+2?"}]
    row = {
        "data_source": "d",
        "prompt": chat,
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0},
    }
    datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / "v.parquet"))
    [example] = load_examples(DataConfig(path=str(tmp_path / "v.parquet")), kind="prompts").rows
    assert example.prompt == chat
    assert example.columns["ground_truth"] == "4" and example.columns["data_source"] == "d"


def test_byte_order_mark(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext\nx\n")
    assert columns(path) == [{"text": "x"}]


def test_folder_splits(tmp_path) -> None:
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", ROWS[1:2])
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "test.jsonl", ROWS[2:])
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert columns(tmp_path) == ROWS[:2]
    assert columns(tmp_path, "test") == ROWS[2:]
    with pytest.raises(DataError, match=r"^split 'dev' is not in .*: found test, train$"):
        read(tmp_path, "dev")


def test_folder_without_split_names_is_train(tmp_path) -> None:
    write_jsonl(tmp_path / "part1.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "part2.jsonl", ROWS[2:])
    assert columns(tmp_path) == ROWS
    with pytest.raises(
        DataError, match=r"^split 'test' is not in .*: found no file named by split$"
    ):
        read(tmp_path, "test")


def test_saved_datasets(tmp_path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(
        str(tmp_path / "two")
    )
    assert columns(tmp_path / "one") == columns(tmp_path / "two") == ROWS
    assert columns(tmp_path / "two", "test") == ROWS[:1]
    with pytest.raises(DataError, match=r"^split 'dev' is not in .*two: it has test, train$"):
        read(tmp_path / "two", "dev")


def test_hub_name(tmp_path, monkeypatch) -> None:
    asked = []

    def load_dataset(name, subset=None, *, data_dir=None, split=None):
        asked.append((name, subset, data_dir, split))
        return datasets.Dataset.from_parquet(
            str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache")
        )

    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "a.parquet"))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig(path="owner/name", subset="main", data_dir="part", split="test")
    examples = load_examples(config, kind="text")
    assert [row.prompt for row in examples.rows] == ["a?", "c?", "e?"]
    assert examples.rows[1].where == "owner/name[test] row 2"
    source = Source("owner/name", "test", "main", "part")
    assert source_fingerprint(source, "text") == source_fingerprint(source, "text")
    assert set(asked) == {("owner/name", "main", "part", "test")}


def test_hub_offline_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        read("no_such_owner/no_such_name")
    message = str(caught.value)
    assert message.startswith(
        "'no_such_owner/no_such_name' is neither a file nor a folder, and split 'train' of a hub "
        "dataset"
    )
    assert "\n" not in message


def test_missing_file_names_the_nearest(tmp_path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "pair.jsonl")
    assert (
        str(caught.value)
        == f"data file {tmp_path}/pair.jsonl does not exist; nearest: {tmp_path}/pairs.jsonl"
    )
    with pytest.raises(DataError) as caught:
        read(tmp_path / "zzz" / "b.csv")
    assert (
        str(caught.value)
        == f"data file {tmp_path}/zzz/b.csv does not exist (nothing of that name in {tmp_path})"
    )


GZIP = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(200)), mtime=0)
UNREADABLE = [
    (
        "a.txt",
        b"x",
        "{path} is not a data file that can be read: expected one of .jsonl, .json, .csv, .parquet "
        "(the first three also .gz)",
    ),
    (
        "a.json",
        b"[{]",
        "{path} is not valid JSON: Expecting property name enclosed in double quotes: line 1 "
        "column 3 (char 2)",
    ),
    (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "\xff"}\n',
        "{path}:2: invalid UTF-8 (byte 0xff): save the file as UTF-8 (bad row 1 of 1",
    ),
    (
        "a.csv",
        b"text\na\n\xe9\n",
        "{path}:3: invalid UTF-8 (byte 0xe9): save the file as UTF-8 (bad row 1 of 1",
    ),
    ("a.csv", b"t\xe9xt\na\n", "{path}:1: invalid UTF-8 (byte 0xe9): save the file as UTF-8"),
    (
        "a.json",
        b'[{"text": "a"},\n{"text": "\xff"}]',
        "{path}:2: invalid UTF-8 (byte 0xff): save the file as UTF-8",
    ),
    ("a.json", b"[" * 200_000, "{path} is not valid JSON: nested too deeply"),
    (
        "c.jsonl.gz",
        GZIP[:10] + b"\xff" * 20 + GZIP[30:],
        "{path} is not a whole gzip file: Error -3 while decompressing data",
    ),
    ("a.jsonl.gz", b"plain", "{path} is not a whole gzip file: Not a gzipped file (b'pl')"),
    (
        "b.jsonl.gz",
        gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9],
        "{path} is not a whole gzip file: ",
    ),
    ("a.parquet", b"PAR1 nonsense", "{path} cannot be read as parquet: "),
    ("a.jsonl", b"", "{path} is empty: it holds no rows"),
    ("a.csv", b"", "{path} is empty: it holds no rows"),
    ("a.csv", b'"te"xt\na\n', "{path}:1: the header is not valid CSV ("),
    ("a.csv", b"text\n", "{path} is empty: it holds no rows"),
    ("a.json", b"[]", "{path} is empty: it holds no rows"),
]


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE)
def test_unreadable_file(tmp_path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=str(path)), kind="text")
    assert str(caught.value).startswith(message.format(path=path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("a.jsonl", b'{"text": "\xff"}', "invalid UTF-8"),
        ("lines.json", b'{"text": "\xff"}', "invalid UTF-8"),
        ("a.jsonl", b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "invalid JSON"),
        ("a.csv", b"\xe9", "invalid UTF-8"),
    ],
)
def test_a_spoiled_line_costs_one_row(tmp_path, name: str, line: bytes, reason: str) -> None:
    path = tmp_path / name
    good = (
        [b"text", b"a", b"b"]
        if name == "a.csv"
        else [b'{"text": "a"}', b'{"text": "a"}', b'{"text": "b"}']
    )
    path.write_bytes(b"\n".join([*good[:2], line, good[2]]) + b"\n")
    examples = load_examples(DataConfig(path=str(path), on_error="skip"), kind="text")
    assert [row.completion for row in examples.rows][-2:] == ["a", "b"] and examples.skipped == {
        reason: 1
    }
    assert [row.where for row in read(path) if row.error] == [f"{path}:3"]


def test_line_ends(tmp_path) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "a.csv").write_bytes(end.join([b"text", b"a", b"b", b""]))
        (tmp_path / "a.jsonl").write_bytes(end.join([b'{"text": "a"}', b'{"text": "b"}', b""]))
        assert (
            columns(tmp_path / "a.csv")
            == columns(tmp_path / "a.jsonl")
            == [{"text": "a"}, {"text": "b"}]
        )


@pytest.mark.parametrize("name", ["file", "saved", "synthetic:arithmetic", "folder"])
def test_options_that_cannot_apply_are_refused(tmp_path, name: str) -> None:
    place = (
        name
        if name.startswith("synthetic")
        else str(tmp_path / "p.jsonl" if name == "file" else tmp_path / name)
    )
    if name == "file":
        write_jsonl(tmp_path / "p.jsonl")
    elif name == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(place)
    elif name == "folder":
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl")
        write_jsonl(tmp_path / name / "test.jsonl", ROWS[:1])
    config = DataConfig(path=place, eval_split="test")
    assert load_examples(config, kind="text").rows
    if name == "folder":
        assert len(load_examples(config, kind="text", split="eval").rows) == 1
    else:
        with pytest.raises(DataError) as caught:
            load_examples(config, kind="text", split="eval")
        assert str(caught.value).startswith(
            f"split 'test' is not in {place}, which has no splits: leave data.split as 'train'"
        )
        with pytest.raises(DataError, match=r"^split 'test' is not in "):
            source_fingerprint(Source(place, "test"), "text")
    for option in ("subset", "data_dir"):
        with pytest.raises(DataError) as caught:
            load_examples(DataConfig(path=place, **{option: "x"}), kind="text")
        assert (
            str(caught.value)
            == f"data.{option} 'x' is for hub datasets, {place} is not one: remove it or change "
            "the path"
        )


def test_hub_options_stay_with_the_hub_dataset(tmp_path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl")
    hub = {"subset": "main", "data_dir": "part"}
    config = DataConfig(path="owner/name", split="train[:9]", eval_path=path, **hub)
    assert train_source(config) == Source("owner/name", "train[:9]", "main", "part")
    assert eval_source(config) == Source(path, "train")
    config = DataConfig(path=path, eval_path="owner/name", eval_split="test", **hub)
    assert train_source(config) == Source(path, "train")
    assert eval_source(config) == Source("owner/name", "test", "main", "part")


def test_empty_folder_and_broken_dataset(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"^folder .* holds no data file: expected .jsonl, .json, .csv, .parquet$"
    ):
        read(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"^.* cannot be read as a saved dataset: "):
        read(tmp_path)


def test_fingerprint_is_of_the_content(tmp_path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl")
    two = write_jsonl(tmp_path / "two.jsonl")
    three = write_jsonl(tmp_path / "three.jsonl", ROWS[:2])
    prints = [source_fingerprint(Source(path, "train"), "text") for path in (one, two, three)]
    assert prints[0] == prints[1] != prints[2]
    generated = [
        source_fingerprint(Source(f"synthetic:arithmetic?seed={seed}", "train"), "text")
        for seed in (0, 0, 1)
    ]
    assert generated[0] == generated[1] != generated[2]
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert len(source_fingerprint(Source(str(tmp_path / "saved"), "train"), "text")) == 64


IMAGE = datasets.Features({"prompt": datasets.Value("string"), "picture": datasets.Image()})


def _with_image_schema(place: str) -> pyarrow.Table:
    """A table whose metadata says that a column is an image at some place."""
    table = pyarrow.table({"prompt": ["a"], "picture": [{"bytes": None, "path": place}]})
    schema = {"info": {"features": IMAGE.to_dict()}}
    return table.replace_schema_metadata({b"huggingface": json.dumps(schema).encode()})


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:9/x.png", "{folder}/secret.png", "file:///etc/passwd"]
)
def test_reading_a_parquet_file_opens_nothing_that_it_names(tmp_path, place: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    place = place.format(folder=tmp_path)
    pyarrow.parquet.write_table(_with_image_schema(place), tmp_path / "x.parquet")
    assert columns(tmp_path / "x.parquet") == [
        {"prompt": "a", "picture": {"bytes": None, "path": place}}
    ]


def test_reading_a_saved_dataset_opens_nothing_that_it_names(tmp_path) -> None:
    stored = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {
            "prompt": ["a"],
            "picture": pyarrow.array([{"bytes": None, "path": "/etc/passwd"}], stored),
        }
    )
    datasets.Dataset(table).save_to_disk(tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "features": IMAGE.to_dict()}))
    assert columns(tmp_path) == [{"prompt": "a", "picture": {"bytes": None, "path": "/etc/passwd"}}]


def test_json_columns_of_parquet_are_objects(tmp_path) -> None:
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "tools": datasets.List(datasets.Json())}
    )
    rows = [{"prompt": "a", "tools": [{"name": "f"}, {"type": "x"}]}]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "x.parquet")
    assert columns(tmp_path / "x.parquet") == rows


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "/etc/elsewhere.arrow"])
def test_a_saved_dataset_names_only_files_of_its_folder(tmp_path, name: str) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list([{"prompt": "a"}]).save_to_disk(folder)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"][0]["filename"] = name
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="which is no file of this folder"):
        read(folder)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl", "x.csv", "x.csv.gz"])
def test_a_line_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(text_rows, "MAX_LINE_BYTES", 1 << 20)
    start = b"prompt\n" if ".csv" in name else b""
    content = start + b"a" * (3 << 20)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match="has a line of more than 1 MiB"):
        read(tmp_path / name)


def test_a_json_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_rows, "MAX_JSON_BYTES", 1 << 20)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"[" + b" " * (3 << 20) + b"]"))
    with pytest.raises(DataError, match="holds more than 1 MiB"):
        read(tmp_path / "x.json.gz")


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}, {"text": "b"}]', '[\n  {"text": "a"},\n  {"text": "b"}\n]\n']
)
def test_an_array_in_a_file_of_json_lines_is_named(text, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text)
    row = next(iter(read_rows(Source(str(tmp_path / "rows.jsonl"), "train"), "text")))
    assert row.error is not None and row.where.endswith("rows.jsonl:1")
    assert row.error.detail.endswith(
        "; a file that is one JSON array must be named .json, in .jsonl each line is an object"
    )
