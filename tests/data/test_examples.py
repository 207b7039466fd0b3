"""Bad rows strict or skipped, and the held-out split."""

import json
import logging
import pathlib

import pytest

from rlhf_jax.data import DataConfig, DataError, iterate_texts, load_examples

LINES = [
    '{"prompt": "a", "chosen": "b", "rejected": "c"}',
    '{"prompt": "a", "chosen": "b"}',
    '{"prompt": "a", "chosen": "b", "rejected":',
    '{"prompt": "a", "chosen": null, "rejected": "c"}',
    '{"prompt": "a", "chosen": "", "rejected": "c"}',
    '{"prompt": "d", "chosen": "e", "rejected": "f"}',
    '{"prompt": 7, "chosen": "e", "rejected": "f"}',
]


def write(path: pathlib.Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_strict_stops_at_the_first_bad_row_and_counts_all(tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", LINES)
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="pairs")
    assert str(caught.value) == (
        f"{path}:2: column 'rejected' is missing (found: prompt, chosen) (bad row 1 of 5; "
        "data.on_error=skip leaves them out)"
    )


def test_invalid_json_has_file_and_line(tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", [LINES[0], LINES[2]])
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="pairs")
    assert str(caught.value).startswith(
        f"{path}:2: invalid JSON (Expecting value: "
    ) and "\n" not in str(caught.value)


def test_skip_counts_and_logs(tmp_path, caplog) -> None:
    path = write(tmp_path / "p.jsonl", LINES)
    with caplog.at_level(logging.INFO):
        examples = load_examples(DataConfig(path=path, on_error="skip"), kind="pairs")
    assert [(row.prompt, row.chosen, row.where) for row in examples.rows] == [
        ("a", "b", f"{path}:1"),
        ("d", "e", f"{path}:6"),
    ]
    assert examples.skipped == {
        "missing column": 1,
        "invalid JSON": 1,
        "null": 1,
        "empty text": 1,
        "wrong type": 1,
    }
    warning = next(
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    )
    assert warning == (
        f"{path}: 5 bad rows left out: empty text 1, invalid JSON 1, missing column 1, null 1, "
        f"wrong type 1; the first: {path}:2: column 'rejected' is missing (found: prompt, chosen)"
    )


def test_no_usable_row(tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", LINES[1:5])
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path, on_error="skip"), kind="pairs")
    assert (
        str(caught.value)
        == f"{path} has no usable row: empty text 1, invalid JSON 1, missing column 1, null 1"
    )
    broken = write(tmp_path / "q.jsonl", ["{", "{"])
    with pytest.raises(DataError, match=r"^.*q.jsonl has no usable row: invalid JSON 2$"):
        load_examples(DataConfig(path=broken, on_error="skip"), kind="pairs")


@pytest.mark.parametrize("ours", ["completion", "chosen"])
def test_mapping_of_an_absent_column(tmp_path, ours: str) -> None:
    """Whether or not the file has a column with the name that is asked for."""
    path = write(tmp_path / "p.jsonl", LINES[:1])
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path, columns={ours: "reply"}), kind="pairs")
    assert str(caught.value) == (
        f"data.columns maps {ours} to 'reply', which {path} does not have: its columns are "
        "prompt, chosen, rejected"
    )


def test_mapping_and_max_examples(tmp_path) -> None:
    path = write(
        tmp_path / "p.jsonl", [json.dumps({"q": f"{n}?", "a": {"b": str(n)}}) for n in range(9)]
    )
    config = DataConfig(path=path, columns={"prompt": "q", "completion": "a.b"}, max_examples=4)
    rows = load_examples(config, kind="text").rows
    assert [(row.prompt, row.completion) for row in rows] == [(f"{n}?", str(n)) for n in range(4)]


def test_unknown_kind(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"^kind 'chat' is not one of text, pairs, unpaired, prompts$"
    ):
        load_examples(DataConfig(path="x"), kind="chat")  # type: ignore[arg-type]


def rows_with_shared_prompts(path: pathlib.Path, count: int = 60) -> str:
    return write(
        path,
        [
            json.dumps({"prompt": f"p{n % 20}", "chosen": f"c{n}", "rejected": "r"})
            for n in range(count)
        ],
    )


@pytest.mark.parametrize("options", [{"eval_fraction": 0.2}, {"eval_size": 12}])
def test_held_out_rows_share_no_prompt_with_training(tmp_path, options: dict) -> None:
    config = DataConfig(path=rows_with_shared_prompts(tmp_path / "p.jsonl"), **options)
    train, held_out = (
        load_examples(config, kind="pairs", split=split).rows for split in ("train", "eval")
    )
    assert len(held_out) == 12 and len(train) == 48
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    places = [row.where for row in [*train, *held_out]]
    assert len(set(places)) == 60
    assert load_examples(config, kind="pairs", split="eval").rows == held_out


def test_held_out_prompts_depend_on_their_text_and_the_seed_only(tmp_path) -> None:
    path = rows_with_shared_prompts(tmp_path / "p.jsonl")
    lines = pathlib.Path(path).read_text().splitlines()
    turned = write(tmp_path / "q.jsonl", lines[::-1])

    def prompts(path: str, kind: str = "pairs", seed: int = 0) -> set:
        config = DataConfig(path=path, eval_size=12, eval_seed=seed)
        return {row.prompt for row in load_examples(config, kind=kind, split="eval").rows}

    assert prompts(path) == prompts(turned) == prompts(path, "text") == prompts(path, "prompts")
    assert len({frozenset(prompts(path, seed=seed)) for seed in range(5)}) > 1


def test_held_out_bare_texts(tmp_path) -> None:
    path = write(tmp_path / "t.jsonl", [json.dumps({"text": f"t{n}"}) for n in range(10)])
    config = DataConfig(path=path, eval_fraction=0.01)
    assert len(load_examples(config, kind="text", split="eval").rows) == 1
    assert len(load_examples(config, kind="text").rows) == 9


def test_held_out_from_elsewhere(tmp_path) -> None:
    one, two = (
        write(tmp_path / "train.jsonl", LINES[:1]),
        write(tmp_path / "test.jsonl", LINES[5:6]),
    )
    for config in (
        DataConfig(path=one, eval_path=two),
        DataConfig(path=str(tmp_path), eval_split="test"),
    ):
        assert [row.prompt for row in load_examples(config, kind="pairs").rows] == ["a"]
        assert [row.prompt for row in load_examples(config, kind="pairs", split="eval").rows] == [
            "d"
        ]


def test_held_out_errors(tmp_path) -> None:
    path = write(tmp_path / "p.jsonl", [LINES[0], LINES[5]])
    with pytest.raises(DataError) as caught:
        load_examples(DataConfig(path=path), kind="pairs", split="eval")
    assert str(caught.value) == (
        "no held-out rows: set one of data.eval_path, data.eval_split, data.eval_fraction, "
        "data.eval_size"
    )
    with pytest.raises(
        DataError, match=r"^holding out 2 of the 2 rows of .* leaves none to train on$"
    ):
        load_examples(DataConfig(path=path, eval_size=2), kind="pairs")


def test_iterate_texts(tmp_path) -> None:
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    path = write(
        tmp_path / "p.jsonl",
        [LINES[0], json.dumps({"prompt": chat[:1], "chosen": "w", "rejected": "x"})],
    )
    config = DataConfig(path=path)
    assert list(iterate_texts(config, kind="pairs")) == ["a", "b", "c", "u", "w", "x"]
    assert list(iterate_texts(config, kind="text")) == ["a", "b", "u", "w"]
    assert list(iterate_texts(config, kind="prompts")) == ["a", "u"]


def test_real_transcripts(shared_data) -> None:
    path = str(shared_data / "hh-rlhf" / "pairs.jsonl")
    with pytest.raises(
        DataError, match=r"pairs.jsonl:70: column 'chosen' has an empty answer \(bad row 1 of 4;"
    ):
        load_examples(DataConfig(path=path), kind="pairs")
    config = DataConfig(path=path, on_error="skip", eval_fraction=0.1)
    train, held_out = (
        load_examples(config, kind="pairs", split=split) for split in ("train", "eval")
    )
    assert (len(train.rows), len(held_out.rows), train.skipped) == (896, 100, {"empty text": 4})
    by_place = {row.where: row for row in [*train.rows, *held_out.rows]}
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), start=1):
        row = by_place.get(f"{path}:{number}")
        if row is not None:
            assert row.prompt.startswith("\n\nHuman:") and row.prompt.endswith("\n\nAssistant:")
            assert row.prompt + row.chosen == json.loads(line)["chosen"]
            assert row.prompt + row.rejected == json.loads(line)["rejected"]
    sft = load_examples(config, kind="text", split="eval").rows
    assert [row.prompt for row in sft] == [row.prompt for row in held_out.rows]


def test_real_bare_transcripts_hold_out_the_same_prompts(shared_data) -> None:
    """SFT on whole transcripts must not have seen the prompts that DPO is judged on."""
    path = str(shared_data / "hh-rlhf" / "pairs.jsonl")
    pairs = load_examples(
        DataConfig(path=path, on_error="skip", eval_fraction=0.1), kind="pairs", split="eval"
    ).rows
    bare = DataConfig(path=path, format="text", columns={"text": "chosen"}, eval_fraction=0.1)
    trained_on = {row.where for row in load_examples(bare, kind="text").rows}
    # 4 rows more are read, so one prompt may change sides
    assert len(trained_on & {row.where for row in pairs}) <= 1


def test_real_questions(shared_data) -> None:
    config = DataConfig(
        path=str(shared_data / "gsm8k"),
        columns={"prompt": "question", "completion": "answer"},
        eval_split="test",
    )
    assert len(load_examples(config, kind="text").rows) == 7473
    assert len(load_examples(config, kind="text", split="eval").rows) == 600
    prompts = load_examples(config, kind="prompts", split="eval").rows
    assert all("####" in row.columns["completion"] for row in prompts)


def test_both_splits_are_read_once_and_a_changed_file_anew(tmp_path, caplog):
    caplog.set_level("INFO", logger="rlhf_jax.data.examples")
    file = tmp_path / "rows.jsonl"

    def write(count):
        file.write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(count)))

    def read(split, **options):
        caplog.clear()
        config = DataConfig(path=str(file), eval_size=3, **options)
        found = load_examples(config, kind="text", split=split)
        return {example.completion for example in found.rows}, len(caplog.records)

    write(20)
    train, times = read("train")
    assert (len(train), times) == (17, 1)
    held_out, times = read("eval")
    assert (len(held_out), times, train & held_out) == (3, 0, set())
    assert read("eval") == (held_out, 1)  # they are not kept longer
    read("train")
    assert read("eval", eval_seed=5)[1] == 1
    read("train")
    write(30)
    changed, times = read("eval")
    assert times == 1 and len(changed | train) >= 20
