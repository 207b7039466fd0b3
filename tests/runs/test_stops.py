"""One set of stops from the folder to the export: rollouts, texts of rewards, penalties,
`generate`."""

import dataclasses
import json
import logging
import pathlib

import jax
import numpy as np
import pytest

from rlhf_jax.algorithms import GRPOConfig
from rlhf_jax.config import Config, ModelSection
from rlhf_jax.data import byte_tokenizer, load_tokenizer, train_tokenizer
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.rewards import RewardConfig, TrainerState
from rlhf_jax.runs.export import export_model
from rlhf_jax.runs.online_parts import make_online_parts
from rlhf_jax.runs.parts import make_tokenizer
from rlhf_jax.runs.stops import warn_of_hidden_tags
from tests.loops.conftest import MODEL
from tests.models.tiny import noisy

BYTES = byte_tokenizer()
NAMED = (261, 100, 101)
"""<|assistant|>, d, e: what generation_config.json calls the end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model of 320 rows with the 264 tokens of the bytes; three ids end its answers,
    and one more in config.json."""
    model, params = init_model(
        ModelConfig.from_hf(MODEL | {"num_hidden_layers": 1}), jax.random.key(0)
    )
    path = export_model(tmp_path_factory.mktemp("stops") / "model", model, noisy(params), BYTES)
    (path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": list(NAMED), "top_k": 50, "temperature": 0.7})
    )
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "eos_token_id": [257, 102]}))
    return path


@pytest.fixture
def online(tiny_config, folder):
    def build(**sections) -> Config:
        config = tiny_config(
            "sft",
            algorithm=GRPOConfig(group_size=4),
            rewards=(RewardConfig(function="exact_match"),),
        )
        config = dataclasses.replace(config, tokenizer=None, model=ModelSection(path=str(folder)))
        sections = {
            "rollout": {"max_new_tokens": 40, "max_prompt_len": 16},
            "data": {"max_length": 1024},
        } | sections
        changed = {
            name: dataclasses.replace(config.__dict__[name], **fields)
            for name, fields in sections.items()
        }
        return dataclasses.replace(config, **changed)

    return build


def test_rollouts_end_at_every_stop_and_the_export_lists_them(online, folder, tmp_path):
    """The acceptance line of issue 8; "END" stands for strings, "f" and "<|tool|>" for tokens of
    rollout.stop."""
    config = online(rollout={"max_new_tokens": 40, "max_prompt_len": 16, "stop": ("<|tool|>", "g")})
    run_dir = pathlib.Path(config.run_dir)
    parts = make_online_parts(config, run_dir)
    stops = (257, *NAMED, 102, 262, 103)
    assert parts.tokenizer.stop_ids == stops
    prompts = parts.prompts.take(np.arange(8))
    params = parts.loaded.trained["policy"]
    sampled = parts.sampler(params, prompts, jax.random.key(5), group_size=4)
    rollout = sampled.rollout
    with parts.grader as grader:
        grades_of = grader(prompts, sampled, state=TrainerState(), training=False).texts
    used = set()
    for row, text in enumerate(grades_of):
        ids = rollout.tokens[row][rollout.completion_mask[row]].tolist()
        assert not set(ids[:-1]) & set(stops) and max(ids) < 264, (
            "ends at the first stop; only tokens of the tokenizer"
        )
        assert rollout.truncated[row] == (ids[-1] not in stops) and (
            len(ids) == 40 or ids[-1] in stops
        )
        answer = ids if rollout.truncated[row] else ids[:-1]
        assert text == BYTES.decode(answer, skip_special_tokens=True)
        used |= set(ids[-1:]) & set(stops)
    assert len(used) >= 4 and used & set(NAMED) and not rollout.truncated.all()

    # as on resume: from the run folder
    again = make_tokenizer(parts.config, run_dir, "prompts")
    assert again.stop_ids == stops and again.fingerprint() == parts.tokenizer.fingerprint()
    exported = export_model(tmp_path / "export", parts.loaded.model, params, again)
    written = json.loads((exported / "generation_config.json").read_text())
    assert written["eos_token_id"] == list(stops) and (
        written["top_k"],
        written["temperature"],
    ) == (50, 0.7)
    assert load_tokenizer(exported).stop_ids == stops


def test_a_tokenizer_of_another_folder_keeps_the_models_stops(online, tmp_path):
    train_tokenizer(["no words here"] * 9, 270).save(tmp_path / "tokenizer")
    config = dataclasses.replace(online(), tokenizer=str(tmp_path / "tokenizer"))
    tokenizer = make_tokenizer(config, tmp_path / "run", "prompts")
    known = set(tokenizer.backend.get_vocab(with_added_tokens=True).values())
    assert tokenizer.stop_ids == tuple(
        dict.fromkeys(
            [tokenizer.eos_id, *(token for token in (*NAMED, 257, 102) if token in known)]
        )
    )
    assert len(tokenizer.stop_ids) > 3 and tokenizer.generation_config()["top_k"] == 50


def test_hidden_tags_are_said(online, caplog, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens(["<think>", "<|begin|>"])
    tokenizer.save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)

    def warnings_of(reward, **rollout):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            config = dataclasses.replace(online(rollout=rollout), rewards=(reward,))
            warn_of_hidden_tags(config, tokenizer)
        return caplog.text

    assert "'<think>'" in warnings_of(RewardConfig(function="think_format"))
    assert "'<|begin|>'" in warnings_of(
        RewardConfig(function="format", options={"pattern": r"<\|begin\|>.*"})
    )
    assert "rollout.skip_special_tokens=false" in warnings_of(
        RewardConfig(function="x.py:f", options={"tags": ["<think>"]})
    )
    assert warnings_of(RewardConfig(function="format", options={"pattern": "<answer>.*"})) == ""
    assert warnings_of(RewardConfig(function="think_format"), skip_special_tokens=False) == ""
    ids = [*tokenizer.encode("<think>a"), tokenizer.eos_id]
    assert tokenizer.decode_answer(ids) == "a" and tokenizer.decode_answer(ids, False) == "<think>a"


@pytest.mark.parametrize("own_pad", [True, False])
def test_a_classifier_has_no_pad_id_that_ends_texts(tmp_path, own_pad):
    """transformers scores the last token that is not the pad id: with pad = EOS the one before
    EOS."""
    config = {name: value for name, value in BYTES.config.items() if own_pad or name != "pad_token"}
    tokenizer = type(BYTES)(BYTES.backend, config)
    model, params = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0), head="reward")
    folder = export_model(tmp_path / "model", model, params, tokenizer)
    written = json.loads((folder / "config.json").read_text())
    assert written["architectures"] == ["Qwen2ForSequenceClassification"]
    assert written["pad_token_id"] == (258 if own_pad else None) and written["eos_token_id"] == 257
    language, weights = init_model(ModelConfig.from_hf(MODEL), jax.random.key(0))
    folder = export_model(tmp_path / "language", language, weights, tokenizer)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == (
        258 if own_pad else 257
    )
