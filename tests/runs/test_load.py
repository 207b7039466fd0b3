"""`load` and `complete`: from a folder, a run or a checkpoint to texts."""

import shutil

import jax
import numpy as np
import pytest

import rlhf_jax
from rlhf_jax.data import DataError, byte_tokenizer
from rlhf_jax.io import CheckpointError
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.runs import complete, load, train
from rlhf_jax.runs.export import export_model
from tests.exported import random_export
from tests.models.tiny import hf_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model with the byte tokenizer."""
    return random_export(tmp_path_factory.mktemp("load") / "model")


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder)


def test_completions_are_prompt_by_prompt(loaded):
    found = complete(loaded, ["one", "a longer prompt"], n=3, max_new_tokens=4, top_k=20)
    assert len(found.texts) == len(found.tokens) == 6
    assert found.logps.shape == found.truncated.shape == (6,) and (found.logps < 0).all()
    for text, ids, truncated in zip(found.texts, found.tokens, found.truncated, strict=True):
        assert 1 <= len(ids) <= 4 and bool(truncated) == (ids[-1] not in loaded.tokenizer.stop_ids)
        assert text == loaded.tokenizer.decode_answer(ids)
    again = complete(loaded, ["one", "a longer prompt"], n=3, max_new_tokens=4, top_k=20)
    other = complete(loaded, ["one", "a longer prompt"], n=3, max_new_tokens=4, top_k=20, seed=1)
    assert again.texts == found.texts != other.texts


def test_log_probabilities_are_the_models(loaded):
    """Of the completion behind its prompt, at the temperature of sampling."""
    model, params, tokenizer = loaded
    [ids] = complete(loaded, "one", max_new_tokens=4, temperature=2.0).tokens
    found = complete(loaded, "one", max_new_tokens=4, temperature=2.0)
    prompt = tokenizer.encode("one")
    tokens = np.array([[*prompt, *ids]])
    logps, _ = model.token_logps(params, tokens, np.ones_like(tokens, bool), temperature=2.0)
    assert float(logps[0, len(prompt) :].sum()) == pytest.approx(float(found.logps[0]), abs=1e-4)


def test_stops(loaded):
    greedy = {"temperature": 0.0, "max_new_tokens": 8}
    [whole] = complete(loaded, "one", **greedy).texts
    cut = complete(loaded, ["one"], stop=[whole[2:4]], **greedy)
    assert cut.texts == [whole[: whole.index(whole[2:4])]] and not cut.truncated[0]
    assert complete(loaded, "one", stop=whole[2:4], **greedy).texts == cut.texts


def test_conversations_and_chat(loaded):
    greedy = {"temperature": 0.0, "max_new_tokens": 4}
    turns = [{"role": "user", "content": "hi"}]
    rendered = loaded.tokenizer.apply_chat_template(turns, True)
    texts = [
        complete(loaded, prompts, **greedy, **more).texts
        for prompts, more in (
            (turns, {}),
            ([turns], {}),
            ("hi", {"chat": True}),
            ([rendered], {}),
        )
    ]
    assert all(each == texts[0] for each in texts)
    assert complete(loaded, "hi", **greedy).texts != texts[0]


def test_another_call_compiles_nothing(loaded):
    with rlhf_jax.runs.compilation.keep_programs(None):
        complete(loaded, "one", max_new_tokens=4)
        counted = []

        def heard(event, seconds, **more):
            counted.append(event)

        jax.monitoring.register_event_duration_secs_listener(heard)
        complete(loaded, ["three"], max_new_tokens=4, seed=5, temperature=0.5)
        compiled = [event for event in counted if "backend_compile" in event]
    assert compiled == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "^prompts is empty"),
        ([""], {}, "^prompt 1 is empty"),
        (["a", 3], {}, "^prompt 2: "),
        ([[{"role": "user"}]], {}, "^prompt 1: "),
        (["a"], {"n": 0}, "^n=0 must be at least 1"),
        (["a"], {"max_new_tokens": 0}, "^max_new_tokens=0"),
        (["a"], {"stop": [""]}, "^stop has an empty text"),
        (["a"], {"top_p": 2.0}, "top_p=2.0"),
    ],
)
def test_mistakes_are_one_line(loaded, prompts, options, message):
    with pytest.raises((ValueError, DataError), match=message) as caught:
        complete(loaded, prompts, **options)
    assert "\n" not in str(caught.value)


def test_runs_and_their_checkpoints(tiny_config, tmp_path):
    config = tiny_config("sft", training={"max_steps": 4, "save_every": 2, "eval_every": 0})
    result = train(config, progress=False)
    final = load(result.run_dir)
    same = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))  # noqa: E731
    assert same(final.params, load(result.run_dir, step=4).params)
    earlier = load(result.run_dir / "checkpoints" / "2")
    assert same(earlier.params, load(result.run_dir, 2).params)
    assert not same(earlier.params, final.params)
    greedy = {"temperature": 0.0, "max_new_tokens": 4}
    texts = complete(final, ["1+1="], **greedy).texts
    assert texts == complete(load(result.run_dir, 4), ["1+1="], **greedy).texts
    shutil.rmtree(result.run_dir / "export")
    assert same(load(result.run_dir).params, final.params), "the newest checkpoint"
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are 2, 4"):
        load(result.run_dir, step=3)


def test_a_reward_model_and_what_is_no_model(folder, tmp_path):
    config = hf_config("qwen2", vocab_size=320, num_hidden_layers=1, max_window_layers=1)
    model, params = init_model(ModelConfig.from_hf(config), jax.random.key(0), head="reward")
    scored = load(export_model(tmp_path / "reward", model, params, byte_tokenizer()))
    tokens = np.ones((1, 4), np.int32)
    assert scored.model.scores(scored.params, tokens, tokens > 0).shape == (1, 4)
    with pytest.raises(CheckpointError, match="step=3 chooses a checkpoint of a run"):
        load(folder, step=3)
    with pytest.raises(ValueError, match="is not a folder"):
        load(tmp_path / "absent")
