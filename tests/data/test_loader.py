"""Loaders: batches that are right token by token, random access, resuming, caching, prefetching."""

import json
import logging
import pathlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import (
    DataConfig,
    DataError,
    Loader,
    byte_tokenizer,
    make_loader,
    prefetch,
)
from tests.data.shapes import CHATML, PHI3, QWEN3, R1, shaped_tokenizer

BYTES = byte_tokenizer()
EOS, PAD = BYTES.eos_id, BYTES.pad_id


def write(path: pathlib.Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def text_rows(count: int) -> list[dict]:
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 30, (count, 2))
    return [
        {"prompt": f"{n}:" + "p" * int(a), "completion": "c" * int(b)}
        for n, (a, b) in enumerate(sizes)
    ]


def pair_rows(count: int) -> list[dict]:
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f"no{row['completion'][: n % 7]}",
        }
        for n, row in enumerate(text_rows(count))
    ]


def text_loader(path: str, batch_size: int = 4, seed: int = 0, **options) -> Loader:
    config = DataConfig(path=path, max_length=64, pad_multiple=8, **options)
    return make_loader(config, BYTES, kind="text", batch_size=batch_size, seed=seed)


def pair_loader(path: str, batch_size: int = 4, seed: int = 0, **options) -> Loader:
    config = DataConfig(path=path, max_length=64, pad_multiple=8, **options)
    return make_loader(config, BYTES, kind="pairs", batch_size=batch_size, seed=seed)


@pytest.fixture(scope="module")
def text_path(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("text") / "t.jsonl", text_rows(41))


@pytest.fixture(scope="module")
def pair_path(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("pairs") / "p.jsonl", pair_rows(41))


def assert_same(one, two) -> None:
    for left, right in zip(one, two, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)


def check_scored(scored: np.ndarray, completion_mask: np.ndarray) -> None:
    for columns, mask in zip(scored, completion_mask, strict=True):
        assert columns[columns >= 0].tolist() == np.flatnonzero(mask).tolist()
        assert (np.diff((columns >= 0).astype(int)) <= 0).all()  # filler stands at the end


def test_text_batches_hold_the_rows(text_path: str) -> None:
    loader, rows = text_loader(text_path), text_rows(41)
    assert (loader.num_examples, loader.batches_per_epoch) == (41, 11)
    seen = []
    for step in range(loader.batches_per_epoch):
        batch, indices = loader.batch(step), loader.indices(step)
        assert batch.tokens.shape[0] == 4 and batch.tokens.shape[1] in loader.buckets
        assert batch.scored.shape[1] <= batch.tokens.shape[1] and batch.segment_ids is None
        assert (batch.tokens.dtype, batch.mask.dtype, batch.completion_mask.dtype) == (
            np.int32,
            np.bool_,
            np.bool_,
        )
        check_scored(batch.scored, batch.completion_mask)
        for place, index in enumerate(indices):
            if index < 0:
                assert not batch.mask[place].any() and not batch.completion_mask[place].any()
                assert (batch.tokens[place] == PAD).all()
                continue
            prompt, answer = rows[index]["prompt"].encode(), rows[index]["completion"].encode()
            ids = [*prompt, *answer, EOS]
            assert batch.tokens[place, : len(ids)].tolist() == ids
            assert (batch.tokens[place, len(ids) :] == PAD).all()
            assert np.flatnonzero(batch.mask[place]).tolist() == list(range(len(ids)))
            assert np.flatnonzero(batch.completion_mask[place]).tolist() == list(
                range(len(prompt), len(ids))
            )
            seen.append(index)
    assert sorted(seen) == list(range(41))


def test_pair_batches_hold_the_pairs(pair_path: str) -> None:
    loader, rows = pair_loader(pair_path), pair_rows(41)
    for step in range(loader.batches_per_epoch):
        batch, indices = loader.batch(step), loader.indices(step)
        assert batch.tokens.shape[:2] == (4, 2) and batch.margin is None and batch.ref_logps is None
        assert batch.valid.tolist() == (indices >= 0).tolist()
        for place in range(4):
            check_scored(batch.scored[place], batch.completion_mask[place])
            for side, column in enumerate(("chosen", "rejected")):
                if indices[place] < 0:
                    assert not batch.mask[place, side].any()
                    continue
                row = rows[indices[place]]
                ids = [*row["prompt"].encode(), *row[column].encode(), EOS]
                assert batch.tokens[place, side][batch.mask[place, side]].tolist() == ids
                assert batch.completion_mask[place, side].sum() == len(row[column]) + 1


def test_margins(tmp_path) -> None:
    rows = [{**row, **({"margin": n} if n % 2 else {})} for n, row in enumerate(pair_rows(5))]
    loader = pair_loader(write(tmp_path / "p.jsonl", rows), batch_size=8, shuffle=False)
    assert loader.batch(0).margin.tolist() == [0, 1, 0, 3, 0, 0, 0, 0]


@pytest.mark.parametrize("packing", [False, True])
def test_packing_and_order(text_path: str, packing: bool) -> None:
    """Every token of every example is there once, whatever the layout."""
    loader = text_loader(text_path, packing=packing)
    expected = sorted(
        [*row["prompt"].encode(), *row["completion"].encode(), EOS] for row in text_rows(41)
    )
    found = []
    for step in range(loader.batches_per_epoch):
        batch = loader.batch(step)
        segments = batch.mask.astype(int) if batch.segment_ids is None else batch.segment_ids
        np.testing.assert_array_equal(batch.mask, segments > 0)
        for place, row in enumerate(segments):
            for number in range(1, row.max() + 1):
                columns = np.flatnonzero(row == number)
                assert np.array_equal(columns, np.arange(columns[0], columns[-1] + 1))
                assert not batch.completion_mask[place, columns[0]]
                found.append(batch.tokens[place, columns].tolist())
    assert sorted(found) == expected
    if packing:
        assert loader.num_items < 30 and loader.padding_efficiency > 0.8


def test_packed_texts_never_predict_across_documents(tmp_path) -> None:
    loader = text_loader(
        write(tmp_path / "t.jsonl", [{"text": "abc"}, {"text": "de"}]), batch_size=1, packing=True
    )
    batch = loader.batch(0)
    assert batch.tokens[0, :7].tolist() == [97, 98, 99, EOS, 100, 101, EOS]
    assert batch.segment_ids[0, :8].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]
    assert batch.completion_mask[0, :8].tolist() == [
        False,
        True,
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert batch.scored[0, :6].tolist() == [1, 2, 3, 5, 6, -1]


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 100), seed=st.integers(0, 3))
def test_random_access(pair_path: str, step: int, seed: int) -> None:
    """A fresh loader gives the batch of any step without those before: that is all of resuming."""
    fresh, used = pair_loader(pair_path, seed=seed), pair_loader(pair_path, seed=seed)
    for earlier in range(max(0, step - 3), step):
        used.batch(earlier)
    assert_same(fresh.batch(step), used.batch(step))
    np.testing.assert_array_equal(fresh.indices(step), used.indices(step))


def test_epochs_and_seeds_differ(pair_path: str) -> None:
    def order(loader: Loader, epoch: int) -> list[int]:
        first = epoch * loader.batches_per_epoch
        return np.concatenate(
            [loader.indices(first + n) for n in range(loader.batches_per_epoch)]
        ).tolist()

    loader, other = pair_loader(pair_path), pair_loader(pair_path, seed=1)
    assert order(loader, 0) != order(loader, 1) != order(other, 1)
    assert sorted(order(loader, 0)) == sorted(order(other, 7))
    still = pair_loader(pair_path, shuffle=False)
    assert order(still, 0) == order(still, 1) == [*range(41), -1, -1, -1]


def test_sequential(pair_path: str) -> None:
    loader = pair_loader(pair_path)
    indices = np.concatenate([indices for indices, _ in loader.sequential(6)])
    assert indices.tolist() == [*range(41), -1]
    assert sum(int(batch.valid.sum()) for _, batch in loader.sequential()) == 41
    first_indices, first = next(loader.sequential(6))
    assert first.tokens.shape[0] == len(first_indices) == 6


def test_one_example_and_large_batches(tmp_path) -> None:
    one = text_loader(write(tmp_path / "t.jsonl", text_rows(1)), batch_size=4)
    assert one.batches_per_epoch == 1
    for step in range(3):
        assert (
            one.indices(step).tolist().count(-1) == 3
            and one.batch(step).mask.any(axis=1).sum() == 1
        )
    few = pair_loader(write(tmp_path / "p.jsonl", pair_rows(3)), batch_size=50)
    assert few.batch(0).valid.sum() == 3 and few.batch(0).tokens.shape[0] == 50


def test_few_shapes_and_little_padding(tmp_path, caplog) -> None:
    path = write(tmp_path / "t.jsonl", text_rows(600))
    with caplog.at_level("INFO", "rlhf_jax"):
        loader = text_loader(path, batch_size=8, num_buckets=3)
    assert (
        f"75 batches an epoch, tokens fill {100 * loader.padding_efficiency:.0f} % of their places"
        in caplog.text
    )
    shapes = {
        (batch.tokens.shape, batch.scored.shape)
        for batch in map(loader.batch, range(3 * loader.batches_per_epoch))
    }
    assert len(loader.buckets) <= 3 and len(loader.scored_buckets) <= 2 and len(shapes) <= 6
    unsorted = text_loader(path, batch_size=8, num_buckets=3, length_window=1)
    assert loader.padding_efficiency > 0.75 > unsorted.padding_efficiency + 0.1
    present = sum(int(loader.batch(step).mask.sum()) for step in range(loader.batches_per_epoch))
    places = sum(loader.batch(step).mask.size for step in range(loader.batches_per_epoch))
    assert loader.padding_efficiency == pytest.approx(present / places)


def test_buckets_by_hand(text_path: str) -> None:
    loader = text_loader(text_path, buckets=(16, 64))
    assert {loader.batch(step).tokens.shape[1] for step in range(loader.batches_per_epoch)} == {
        16,
        64,
    }


def test_fingerprint(text_path: str, tmp_path) -> None:
    base = text_loader(text_path).fingerprint
    copy = tmp_path / "moved.jsonl"
    copy.write_bytes(pathlib.Path(text_path).read_bytes())
    same = [
        text_loader(str(copy)),
        text_loader(
            text_path,
            batch_size=7,
            seed=3,
            packing=True,
            num_proc=1,
            shuffle=False,
            length_window=2,
        ),
    ]
    assert {loader.fingerprint for loader in same} == {base}
    copy.write_text(copy.read_text().replace("0:", "x:"))
    changed = [
        text_loader(str(copy)),
        text_loader(text_path, append_eos=False),
        text_loader(text_path, chat_template="{{ 1 }}"),
        text_loader(text_path, eval_fraction=0.1),
        text_loader(text_path, truncation="drop"),
    ]
    assert len({loader.fingerprint for loader in changed} | {base}) == 6


def test_chat_template_option_reaches_the_tokens(tmp_path) -> None:
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    path = write(tmp_path / "m.jsonl", [{"messages": chat}])
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    loader = text_loader(path, batch_size=1, chat_template=template)
    batch = loader.batch(0)
    assert loader.tokenizer.chat_template == template
    assert batch.tokens[0][batch.mask[0]].tolist() == [*b"[u][v]", EOS]
    assert batch.completion_mask[0].sum() == 4


def test_cache(pair_path: str, tmp_path, caplog) -> None:
    config = DataConfig(path=pair_path, max_length=64)

    def make(batch_size: int) -> Loader:
        return make_loader(
            config, BYTES, kind="pairs", batch_size=batch_size, seed=0, cache_dir=tmp_path / "cache"
        )

    first = make(4)
    [folder] = (tmp_path / "cache").iterdir()
    with caplog.at_level(logging.INFO):
        second = make(4)
    assert any(f"read from {folder}" in record.getMessage() for record in caplog.records)
    assert (second.fingerprint, second.skipped, second.shortened) == (
        first.fingerprint,
        first.skipped,
        first.shortened,
    )
    for step in range(first.batches_per_epoch):
        assert_same(first.batch(step), second.batch(step))


def test_cache_keeps_what_was_left_out(tmp_path) -> None:
    rows = [*text_rows(3), {"prompt": "x"}, {"prompt": "p" * 90, "completion": "c"}]
    path = write(tmp_path / "t.jsonl", rows)
    config = DataConfig(path=path, on_error="skip", max_length=64, truncation="drop")
    loaders = [
        make_loader(
            config, BYTES, kind="text", batch_size=2, seed=0, cache_dir=str(tmp_path / "cache")
        )
        for _ in range(2)
    ]
    assert [loader.skipped for loader in loaders] == [{"missing column": 1, "too long": 1}] * 2
    assert [loader.num_examples for loader in loaders] == [3, 3]


def test_processes_give_the_same_tokens(tmp_path) -> None:
    path = write(tmp_path / "t.jsonl", text_rows(700))
    one, two = (text_loader(path, num_proc=num_proc) for num_proc in (1, 2))
    assert one.num_examples == two.num_examples == 700
    for step in (0, 50, one.batches_per_epoch - 1):
        assert_same(one.batch(step), two.batch(step))


def test_held_out_split(text_path: str) -> None:
    config = DataConfig(path=text_path, max_length=64, eval_size=5)
    train, held_out = (
        make_loader(config, BYTES, kind="text", batch_size=4, seed=0, split=split)
        for split in ("train", "eval")
    )
    assert (train.num_examples, held_out.num_examples) == (36, 5)
    assert train.fingerprint != held_out.fingerprint


LOADER_ERRORS = [
    (
        {},
        {"kind": "prompts"},
        "kind 'prompts' has no batches: text, pairs, unpaired (prompts have make_prompt_loader)",
    ),
    ({}, {"batch_size": 0}, "batch_size 0 must be at least 1"),
    (
        {"packing": True},
        {"kind": "pairs"},
        "data.packing is for SFT only: answers are packed by training.pack",
    ),
    (
        {"train_on": "all"},
        {"kind": "pairs"},
        "data.train_on 'all' is for SFT only: answers are scored on their completions",
    ),
    (
        {"max_length": 3, "truncation": "drop"},
        {},
        "no row of {path} can be used with max_length 3 and truncation 'drop': too long 41",
    ),
]


@pytest.mark.parametrize(("options", "arguments", "message"), LOADER_ERRORS)
def test_errors(text_path: str, options: dict, arguments: dict, message: str) -> None:
    with pytest.raises(DataError) as caught:
        make_loader(
            DataConfig(path=text_path, **options),
            BYTES,
            **{"kind": "text", "batch_size": 4, "seed": 0, **arguments},
        )
    assert str(caught.value) == message.format(path=text_path)


def test_template_errors_name_the_row(tmp_path) -> None:
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    path = write(
        tmp_path / "m.jsonl",
        [{"messages": chat}, {"messages": [{"role": "tool", "content": "x"}, *chat]}],
    )
    template = (
        "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tool here') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError) as caught:
        text_loader(path, chat_template=template)
    assert str(caught.value) == (
        f"{path}:2: the chat template refuses these messages: no tool here (bad row 1 of 1; "
        "data.on_error=skip leaves them out)"
    )
    loader = text_loader(path, chat_template=template, on_error="skip")
    assert (loader.num_examples, loader.skipped) == (1, {"chat template": 1})


def test_long_chat_prompt_keeps_the_bos_of_the_template(tmp_path) -> None:
    chat = [{"role": "user", "content": "u" * 200}, {"role": "assistant", "content": "v"}]
    path = write(tmp_path / "m.jsonl", [{"messages": chat}])
    body = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for template, first in (("{{ bos_token }}" + body, BYTES.bos_id), (body, ord("u"))):
        batch = text_loader(path, batch_size=1, chat_template=template).batch(0)
        assert batch.tokens[0, :2].tolist() == [first, ord("u")]
        assert batch.tokens[0, 61:].tolist() == [ord("u"), ord("v"), EOS]


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_only_own_rows_are_filled(kind: str, text_path: str, pair_path: str) -> None:
    """What the others hold is known by its length alone: shapes and masks are those of all."""
    path = text_path if kind == "text" else pair_path
    config = DataConfig(path=path, max_length=64, shuffle=False)
    options = {"kind": kind, "batch_size": 4, "seed": 0}
    whole = make_loader(config, BYTES, **options).batch(0)
    part = make_loader(config, BYTES, owns=lambda places: {1, places - 1}, **options).batch(0)
    np.testing.assert_array_equal(part.mask, whole.mask)
    for row in range(4):
        if row in (1, 3):
            np.testing.assert_array_equal(part.tokens[row], whole.tokens[row])
            np.testing.assert_array_equal(part.completion_mask[row], whole.completion_mask[row])
            np.testing.assert_array_equal(part.scored[row], whole.scored[row])
        else:
            assert (part.tokens[row] == BYTES.pad_id).all()
            assert not part.completion_mask[row].any()


def test_prefetch_hands_out_steps_in_order(pair_path: str) -> None:
    loader = pair_loader(pair_path)
    with prefetch(loader, 5, 20) as batches:
        items = list(batches)
    assert [step for step, _, _ in items] == list(range(5, 20))
    for step, indices, batch in items:
        np.testing.assert_array_equal(indices, loader.indices(step))
        assert_same(batch, loader.batch(step))


def test_prefetch_ends_its_thread(pair_path: str) -> None:
    with prefetch(pair_loader(pair_path), 0) as batches:
        assert next(batches)[0] == 0
    assert not any(thread.name == "rlhf_jax-prefetch" for thread in threading.enumerate())


def test_prefetch_hands_over_exceptions_in_turn(pair_path: str, monkeypatch) -> None:
    loader = pair_loader(pair_path)
    whole = loader.batch

    def batch(step: int):
        if step == 2:
            raise OSError("disk gone")
        return whole(step)

    monkeypatch.setattr(loader, "batch", batch)
    with prefetch(loader, 0) as batches:
        assert [next(batches)[0] for _ in range(2)] == [0, 1]
        with pytest.raises(OSError, match="disk gone"):
            next(batches)
    assert not any(thread.name == "rlhf_jax-prefetch" for thread in threading.enumerate())


def test_real_pairs(shared_data) -> None:
    path = str(shared_data / "hh-rlhf" / "pairs.jsonl")
    config = DataConfig(path=path, on_error="skip", eval_fraction=0.1, max_length=512)
    pairs = make_loader(config, BYTES, kind="pairs", batch_size=8, seed=0)
    assert (
        pairs.num_examples + pairs.skipped.get("no difference", 0) == 896
        and pairs.skipped["empty text"] == 4
    )
    assert pairs.padding_efficiency > 0.6
    batch = pairs.batch(0)
    assert batch.valid.all() and (batch.completion_mask.sum(axis=-1) > 0).all()
    first = [
        batch.tokens[:, side] * ~batch.completion_mask[:, side] * batch.mask[:, side]
        for side in (0, 1)
    ]
    width = int((~batch.completion_mask & batch.mask).sum(axis=-1).min())
    np.testing.assert_array_equal(first[0][:, :width], first[1][:, :width])
    packed = make_loader(
        DataConfig(path=path, on_error="skip", max_length=512, packing=True),
        BYTES,
        kind="text",
        batch_size=8,
        seed=0,
    )
    assert packed.padding_efficiency > 0.95 and packed.num_examples == 996


THINKING = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "<think>\nt\n</think>\n\na"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "b"},
]


def test_unrolled_conversations_are_said_and_kept(tmp_path, caplog) -> None:
    path = write(tmp_path / "m.jsonl", [{"messages": THINKING}, {"messages": THINKING[:2]}])
    tokenizer = shaped_tokenizer(QWEN3)
    config = DataConfig(path=path)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO):
            loader = make_loader(
                config, tokenizer, kind="text", batch_size=3, seed=0, cache_dir=tmp_path / "cache"
            )
        assert f"{path} (train): unrolled: 1 conversations into 2 rows" in caplog.text
        assert loader.num_examples == 3
        texts = [
            tokenizer.decode(row[mask].tolist())
            for row, mask in zip(loader.batch(0).tokens, loader.batch(0).mask, strict=True)
        ]
        assert sorted(texts) == sorted(
            [
                "<|im_start|>user\nq<|im_end|>\n"
                "<|im_start|>assistant\n<think>\nt\n</think>\n\na<|im_end|>",
                "<|im_start|>user\nq<|im_end|>\n"
                "<|im_start|>assistant\n<think>\nt\n</think>\n\na<|im_end|>",
                "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
                "<|im_start|>user\nr<|im_end|>\n"
                "<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>",
            ]
        )


def test_held_out_conversations_are_cut_before_they_are_unrolled(tmp_path) -> None:
    """A conversation is on one side, with all its rows."""
    rows = [{"messages": [{"role": "user", "content": f"q{n}"}, *THINKING[1:]]} for n in range(8)]
    config = DataConfig(path=write(tmp_path / "m.jsonl", rows), eval_size=3)
    tokenizer = shaped_tokenizer(QWEN3)
    sides = [
        make_loader(config, tokenizer, kind="text", batch_size=16, seed=0, split=split)
        for split in ("train", "eval")
    ]
    assert [side.num_examples for side in sides] == [10, 6]


def test_a_template_without_a_stop_is_refused_before_the_rows(tmp_path) -> None:
    path = write(tmp_path / "m.jsonl", [{"messages": THINKING[2:]}])
    foreign = shaped_tokenizer(CHATML, stops=("<|endoftext|>",))
    with pytest.raises(
        DataError, match=r"the tokenizer's chat template ends an answer with '<\|im_end\|>'"
    ):
        make_loader(DataConfig(path=path), foreign, kind="text", batch_size=1, seed=0)
    plain = write(tmp_path / "t.jsonl", [{"prompt": "q", "completion": "a"}])
    make_loader(DataConfig(path=plain), foreign, kind="text", batch_size=1, seed=0)


@pytest.mark.slow
def test_stops_are_part_of_the_fingerprint_and_reach_the_processes(tmp_path) -> None:
    path = write(tmp_path / "m.jsonl", [{"messages": THINKING[2:]}] * 600)
    made = {}
    for num_proc in (1, 2):
        tokenizer = shaped_tokenizer(PHI3)
        config = DataConfig(path=path, num_proc=num_proc)
        made[num_proc] = make_loader(config, tokenizer, kind="text", batch_size=600, seed=0)
    assert_same(made[1].batch(0), made[2].batch(0))
    other = make_loader(
        DataConfig(path=path),
        shaped_tokenizer(PHI3, stops=("<|endoftext|>",)),
        kind="text",
        batch_size=1,
        seed=0,
    )
    assert other.fingerprint != made[1].fingerprint == made[2].fingerprint


def test_kwargs_and_tools_are_part_of_the_fingerprint(text_path: str) -> None:
    base = text_loader(text_path)
    changed = [
        text_loader(text_path, chat_template_kwargs={"enable_thinking": False}),
        text_loader(text_path, tools=({"name": "add"},)),
    ]
    assert len({loader.fingerprint for loader in (base, *changed)}) == 3


def test_rows_that_lose_something_are_a_warning(tmp_path, caplog) -> None:
    path = write(
        tmp_path / "t.jsonl",
        [{"prompt": "q" * size, "completion": "a"} for size in (10, 80, 90, 20)],
    )
    with caplog.at_level(logging.WARNING):
        text_loader(path)
    assert caplog.messages == [
        f"{path} (train): 2 of 4 rows (50.0 %) shortened to data.max_length 64"
    ]


def test_notes_are_said_once_with_the_first_row(tmp_path, caplog) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(5)
    ]
    path = write(tmp_path / "m.jsonl", rows)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            config = DataConfig(path=path)
            make_loader(
                config,
                shaped_tokenizer(R1),
                kind="text",
                batch_size=1,
                seed=0,
                cache_dir=tmp_path / "cache",
            )
        [message] = caplog.messages
        assert (
            "the chat template leaves '<think>\\n', the end of its generation prompt, out of "
            "finished answers: 5" in message
        )
        assert message.endswith("(the first: " + (f"{path}:1)"))


def test_token_rows_through_the_loader(tmp_path) -> None:
    rows = [{"input_ids": [n, 1, 2], "labels": [-100, 1, 2]} for n in range(10)]
    config = DataConfig(path=write(tmp_path / "t.jsonl", rows), eval_size=4)
    train, held_out = (
        make_loader(config, BYTES, kind="text", batch_size=10, seed=0, split=split)
        for split in ("train", "eval")
    )
    first = sorted(
        train.batch(0).tokens[:, 0].tolist()[:6] + held_out.batch(0).tokens[:, 0].tolist()[:4]
    )
    assert first == list(range(10))
    assert train.batch(0).completion_mask[0].tolist()[:4] == [False, True, True, False]
    with pytest.raises(DataError, match="a bare text has no prompt for data.prompt_template"):
        text_loader(config.path, prompt_template="{prompt}")


def test_tokens_before_a_step(text_path, pair_path) -> None:
    """Those of all batches before it, over epochs; with packed rows too."""
    packed = {"packing": True}
    for loader in (
        text_loader(text_path),
        pair_loader(pair_path),
        text_loader(text_path, **packed),
    ):
        seen = 0
        for step in range(2 * loader.batches_per_epoch + 2):
            assert loader.tokens_before(step) == seen
            seen += int(loader.batch(step).mask.sum())


def test_a_loader_is_gone_through():
    """One epoch in the order of training."""
    loader = make_loader(
        DataConfig(path="synthetic:arithmetic?size=20", max_length=16),
        byte_tokenizer(),
        kind="text",
        batch_size=8,
        seed=3,
    )
    batches = list(loader)
    assert len(batches) == len(loader) == loader.batches_per_epoch == 3
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.tokens, loader.batch(step).tokens)
