"""One set of stops: of tokenizer, folder, `rollout.stop`; and answers without them."""

import json
import pickle

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from rlhf_jax.data import (
    DataError,
    FastTokenizer,
    byte_tokenizer,
    load_tokenizer,
    read_generation,
    train_tokenizer,
)

BYTES = byte_tokenizer()


def folder_of(tmp_path, tokenizer=BYTES, **files):
    """A model's folder: a tokenizer and further files, `name="contents"`."""
    tokenizer.save(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    for name, contents in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))
    return tmp_path


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({}, {}, (257,)),
        ({"eos_token_id": 10}, {}, (257, 10)),
        ({"eos_token_id": [257, 261, 10]}, {"eos_token_id": 260}, (257, 261, 10, 260)),
        ({"eos_token_id": None}, {"eos_token_id": [257, 260]}, (257, 260)),
        # ids that no token has
        ({"eos_token_id": [10, 264, 151_643, -1]}, {"eos_token_id": 264}, (257, 10)),
        ({}, {"text_config": {"eos_token_id": [1, 106]}}, (257, 1, 106)),
    ],
)
def test_stops_of_a_folder(tmp_path, generation, config, expected):
    folder = folder_of(tmp_path, generation_config=generation, config=config)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == expected and tokenizer.eos_id == 257
    tokenizer.save(tmp_path / "run")  # into the run folder, and on resume
    again = load_tokenizer(tmp_path / "run")
    assert again.stop_ids == expected and again.fingerprint() == tokenizer.fingerprint()
    assert json.loads((tmp_path / "run" / "generation_config.json").read_text())[
        "eos_token_id"
    ] == list(expected)
    assert (
        again.with_chat_template("{{ 1 }}").stop_ids
        == pickle.loads(pickle.dumps(again)).stop_ids
        == expected
    )


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    for contents, message in (
        (
            '{"eos_token_id": "</s>"}',
            "eos_token_id '</s>' is neither a number nor a list of numbers",
        ),
        ('{"eos_token_id": [1, true]}', "eos_token_id '\\[1, True\\]' is neither"),
        ("[1]", "generation_config.json holds a list, expected an object in braces"),
        ("{", "generation_config.json is not valid JSON"),
        ("[" * 100_000, "generation_config.json is not valid JSON"),
    ):
        (tmp_path / "generation_config.json").write_text(contents)
        with pytest.raises(DataError, match=message) as caught:
            read_generation(tmp_path)
        assert "\n" not in str(caught.value)


def test_sampling_defaults_travel_with_the_stops(tmp_path):
    given = {"eos_token_id": [10], "temperature": 0.6, "top_p": 0.95, "do_sample": True}
    folder = folder_of(tmp_path, generation_config={**given, "_from_model_config": True})
    written = load_tokenizer(folder).generation_config()
    # without _from_model_config, for which transformers would take config.json's one id
    assert written == {**given, "eos_token_id": [257, 10], "bos_token_id": 256, "pad_token_id": 258}
    # config.tokenizer and model.path name different places
    other = BYTES.with_stops(generation=read_generation(tmp_path))
    assert other.stop_ids == (257, 10) and other.generation_config()["top_p"] == 0.95


@pytest.fixture(scope="module")
def trained() -> FastTokenizer:
    return train_tokenizer(["a b\n\nc d\n\n", "Question: no\n\nAnswer: yes.\n"] * 40, 300)


def test_entries_of_rollout_stop(trained):
    assert "\n\n" in {trained.decode([token]) for token in range(264, trained.vocab_size)}
    eos = trained.eos_id
    newline = trained.encode("\n")
    assert len(newline) == 1
    one = BYTES.with_stops(["\n", "<|user|>", "a", "\u010a"])
    assert one.stop_ids == (257, 10, 260, 97) and one.stop_strings == (), (
        "no other token holds these bytes"
    )
    two = trained.with_stops(["\n"])
    assert two.stop_ids == (eos, *newline) and two.stop_strings == ("\n",), (
        "a newline also comes in a token of two"
    )
    three = trained.with_stops(["<|user|>", "Question:", "zq", "\u20ac"])
    assert three.stop_ids[:2] == (eos, trained.backend.token_to_id("<|user|>"))
    assert {"zq", "\u20ac"} <= set(three.stop_strings), "texts of several tokens"
    assert trained.with_stops([]) is trained
    assert three.with_stops(["zq"]).fingerprint() == three.fingerprint(), "given again on resume"


def test_stop_strings_survive_a_folder(trained, tmp_path):
    trained.with_stops(["zq"]).save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.stop_strings == ("zq",) and pickle.loads(pickle.dumps(again)).stop_strings == (
        "zq",
    )
    assert "stop_strings" not in json.loads((tmp_path / "generation_config.json").read_text()), (
        "transformers' generate would then ask every caller for a tokenizer"
    )


def test_answers_without_their_stop(trained):
    ids = BYTES.encode
    assert BYTES.decode_answer([*ids("ab"), 257]) == "ab"
    assert BYTES.decode_answer(ids("ab")) == "ab", "truncated"
    assert BYTES.decode_answer([257]) == BYTES.decode_answer([]) == ""
    assert BYTES.with_stops(["<|user|>"]).decode_answer([*ids("ab"), 260]) == "ab"
    strings = BYTES.with_stops(["END", "<|tool|>:"])
    assert strings.decode_answer(ids("a END")) == "a "
    assert strings.decode_answer(ids("x<|tool|>:")) == "x"
    assert strings.decode_answer(ids("x<|user|>y<|tool|>:")) == "xy"
    assert (
        strings.decode_answer(ids("x<|user|>y<|tool|>:"), skip_special_tokens=False) == "x<|user|>y"
    )
    named = BYTES.with_stops(["user"])  # what a special token is called is no text
    assert (
        named.decode_answer(ids("a<|user|>b")) == "ab"
        and named.string_end()(ids("a<|user|>b"), 0) is None
    )
    assert named.decode_answer(ids("a<|user|>b user"), skip_special_tokens=False) == "a<|user|>b "
    assert trained.with_stops(["\n"]).decode_answer(trained.encode("a b\n\n")) == "a b"
    end = strings.string_end()
    assert end is not None and end(ids("a ENDx"), 0) == 5 and end(ids("a EN"), 0) is None
    assert BYTES.string_end() is None


def test_ids_without_a_token():
    assert BYTES.missing_ids(264) == () and BYTES.missing_ids(266) == (264, 265)
    backend = tokenizers.Tokenizer(models.WordLevel({"</s>": 1, "a": 2, "b": 7}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    gaps = FastTokenizer(backend, {"eos_token": "</s>"})
    assert gaps.vocab_size == 8 and gaps.missing_ids(10) == (0, 3, 4, 5, 6, 8, 9)


def test_a_folder_without_eos_token(tmp_path):
    """openai-community/gpt2: {"model_max_length": 1024} is all of its tokenizer_config.json."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.add_special_tokens(["<|end|>", "<|endoftext|>"])

    def write(tokenizer_config, config=None):
        backend.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        (tmp_path / "config.json").write_text(json.dumps(config or {}))
        return tmp_path

    assert load_tokenizer(write({}, {"eos_token_id": 2})).eos_id == 2
    assert load_tokenizer(write({"eos_token": None}, {"eos_token_id": [2, 3]})).stop_ids == (2, 3)
    assert load_tokenizer(write({"model_max_length": 1024}, {"model_type": "gpt2"})).eos_id == 3, (
        "GPT2Tokenizer's default"
    )
    assert load_tokenizer(write({"tokenizer_class": "GPT2TokenizerFast"})).eos_id == 3
    assert load_tokenizer(write({"eos_token": "<|end|>"}, {"eos_token_id": 3})).stop_ids == (2, 3)
    for config in ({"model_type": "llama"}, {"eos_token_id": 77}, {"model_type": ["x"]}, {}):
        with pytest.raises(
            DataError,
            match="the tokenizer has no eos_token: add one to its tokenizer_config.json, or an",
        ):
            load_tokenizer(write({}, config))
