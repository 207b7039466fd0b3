"""Loading and saving folders: round trips, shards, heads, casts, meshes; one-line errors."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlhf_jax.models import (
    ModelConfigError,
    ModelLoadError,
    init_model,
    load_pretrained,
    read_config,
    save_pretrained,
)
from rlhf_jax.models.checkpoint import Checkpoint
from rlhf_jax.sharding import make_mesh
from tests.models.tiny import CASES, FAMILY_NAMES, GOLDEN, max_difference, noisy, tiny


def copy(case, tmp_path):
    return shutil.copytree(GOLDEN / case, tmp_path / case)


def edit(folder, change):
    """Rewrites model.safetensors after `change` has altered its dict of arrays."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, *words, error=ModelLoadError, **arguments):
    with pytest.raises(error) as caught:
        load_pretrained(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load_round_trip(family, tied, tmp_path):
    config = tiny(family, tie_word_embeddings=tied)
    model, params = init_model(config, jax.random.key(0))
    params = noisy(params)
    save_pretrained(tmp_path, model, params, max_shard_size="30KB" if tied else "5GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == tied
    other, loaded = load_pretrained(tmp_path)
    assert other.config == config
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert max_difference(params, loaded) == 0


@pytest.mark.parametrize("case", CASES)
def test_stored_folders_are_written_as_transformers_wrote_them(case, tmp_path):
    head = "reward" if case.endswith("reward") else None
    model, params = load_pretrained(GOLDEN / case, head=head)
    save_pretrained(tmp_path, model, params)
    ours = load_file(tmp_path / "model.safetensors")
    theirs = {}
    for file in (GOLDEN / case).glob("*.safetensors"):
        theirs |= load_file(file)
    buffers = {name for name in theirs if name.endswith(("inv_freq", ".attn.bias", "masked_bias"))}
    prefix = "" if case != "gpt2" else "transformer."
    theirs = {prefix + name: array for name, array in theirs.items() if name not in buffers}
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array.astype(np.float32)), name
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_sharded_files_respect_the_limit_and_replace_older_ones(tmp_path):
    model, params = init_model(tiny("qwen2"), jax.random.key(0))
    save_pretrained(tmp_path, model, params, max_shard_size=20_000)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and set(index["weight_map"].values()) == {file.name for file in files}
    assert all(sum(array.nbytes for array in load_file(file).values()) <= 20_000 for file in files)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    save_pretrained(tmp_path, model, params)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for size in ("many", "0", -1, "5 TB"):
        with pytest.raises(ValueError, match="max_shard_size="):
            save_pretrained(tmp_path, model, params, max_shard_size=size)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_casts_on_save_and_on_load(dtype, tmp_path):
    model, params = init_model(tiny("gemma2"), jax.random.key(0))
    params = noisy(params)
    save_pretrained(tmp_path, model, params, dtype=dtype)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["dtype"], written["torch_dtype"]) == (dtype, dtype)
    _, same = load_pretrained(tmp_path, dtype=dtype)
    _, wide = load_pretrained(tmp_path)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(same)} == {dtype}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide)} == {"float32"}
    assert (
        max_difference(jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params), wide)
        == 0
    )
    with pytest.raises(ValueError, match="dtype='int8' cannot be saved"):
        save_pretrained(tmp_path, model, params, dtype="int8")


def test_extra_config_sets_token_ids_but_not_the_architecture(tmp_path):
    model, params = init_model(tiny("llama"), jax.random.key(0))
    save_pretrained(
        tmp_path,
        model,
        params,
        extra_config={"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0},
    )
    config = read_config(tmp_path)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, (2, 5), 0)
    with pytest.raises(ValueError, match="extra_config changes norm_eps"):
        save_pretrained(tmp_path, model, params, extra_config={"rms_norm_eps": 0.1})


@pytest.mark.parametrize("tied", [True, False])
def test_reward_model_round_trip(tied, tmp_path):
    config = tiny("llama", tie_word_embeddings=tied)
    model, params = init_model(config, jax.random.key(0), head="reward")
    params = noisy(params)
    save_pretrained(tmp_path, model, params, extra_config={"pad_token_id": 0})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["LlamaForSequenceClassification"]
    assert len(written["id2label"]) == 1 and written["pad_token_id"] == 0
    assert load_file(tmp_path / "model.safetensors")["score.weight"].shape == (1, 32)
    for head in ("reward", "value"):
        other, loaded = load_pretrained(tmp_path, head=head)
        assert other.scores is not None and not other.config.lm_head
        assert max_difference(params, loaded) == 0
    refused(tmp_path, "pass head='reward'")
    edit_config(tmp_path, architectures=["LlamaForCausalLM"])
    refused(tmp_path, "score.weight", "pass head=") if tied else refused(
        tmp_path, "lm_head.weight", "missing"
    )


def test_value_head_lies_beside_the_language_model(tmp_path):
    model, params = init_model(tiny("qwen3"), jax.random.key(0), head="value")
    params = noisy(params)
    save_pretrained(tmp_path, model, params)
    assert "score.weight" not in load_file(tmp_path / "model.safetensors")
    other, loaded = load_pretrained(tmp_path, head="value")
    assert max_difference(params, loaded) == 0 and other.config.lm_head
    refused(tmp_path, "score.weight", "pass head=")
    language_model, _ = load_pretrained(GOLDEN / "qwen3")
    save_pretrained(tmp_path, language_model, load_pretrained(GOLDEN / "qwen3")[1])
    assert not (tmp_path / "value_head.safetensors").exists()


def test_a_language_model_starts_a_fresh_head():
    _, plain = load_pretrained(GOLDEN / "llama_v4")
    model, zero = load_pretrained(GOLDEN / "llama_v4", head="reward")
    _, drawn = load_pretrained(GOLDEN / "llama_v4", head="value", key=jax.random.key(0))
    assert model.scores is not None and "unembed" not in zero and "unembed" in drawn
    assert (np.asarray(zero["score"]["kernel"]) == 0).all()
    assert 0.01 < float(jnp.std(drawn["score"]["kernel"])) < 1.0
    assert max_difference(plain["layers"], zero["layers"]) == 0


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}])
@pytest.mark.parametrize("case", ["phi3_partial", "gpt2", "qwen2_reward", "llama_v4"])
def test_loaded_and_saved_in_shards(case, sizes, tmp_path):
    head = "reward" if case.endswith("reward") else None
    _, whole = load_pretrained(GOLDEN / case, head=head)
    mesh = make_mesh(sizes)
    model, parts = load_pretrained(GOLDEN / case, head=head, mesh=mesh)
    save_pretrained(tmp_path, model, parts)
    assert max_difference(whole, load_pretrained(tmp_path, head=head)[1]) == 0
    assert max_difference(whole, parts) == 0
    kernel = parts["layers"]["attn"]["o"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    _, replicated = load_pretrained(
        GOLDEN / case, head=head, mesh=mesh, replicate=("attn/o/kernel",)
    )
    assert replicated["layers"]["attn"]["o"]["kernel"].sharding.is_fully_replicated


def test_a_shard_is_read_without_the_rest_of_its_tensor(monkeypatch):
    sizes = []
    read = Checkpoint.read

    def counted(self, name, index):
        result = read(self, name, index)
        sizes.append(result.size)
        return result

    monkeypatch.setattr(Checkpoint, "read", counted)
    load_pretrained(GOLDEN / "qwen2", mesh=make_mesh({"fsdp": 8}))
    assert max(sizes) == 48 * 16 // 8, "an eighth of the largest tensor, the embedding"


def test_names_without_prefix_and_of_multimodal_models(tmp_path, caplog):
    _, expected = load_pretrained(GOLDEN / "gemma3_text")
    config = json.loads((GOLDEN / "gemma3_text" / "config.json").read_text())
    for prefix in ("model.", "", "language_model.model.", "model.language_model."):
        folder = copy("gemma3_text", tmp_path / (prefix or "none"))
        tensors = load_file(folder / "model.safetensors")
        renamed = {prefix + name.removeprefix("model."): array for name, array in tensors.items()}
        if "language" in prefix:
            renamed["vision_tower.patch.weight"] = np.ones((2, 2), np.float32)
            outer = {
                "model_type": "gemma3",
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": config,
            }
            (folder / "config.json").write_text(
                json.dumps({**outer, "vision_config": {"hidden_size": 8}})
            )
        save_file(renamed, folder / "model.safetensors")
        with caplog.at_level(logging.INFO):
            model, params = load_pretrained(folder)
        assert model.config.family == "gemma3_text"
        assert max_difference(expected, params) == 0
    assert "1 tensors of the vision tower are not loaded" in caplog.text


def test_a_copy_of_tied_weights_must_be_equal(tmp_path):
    folder = copy("qwen2", tmp_path)
    edit(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
        ),
    )
    _, params = load_pretrained(folder)
    assert "unembed" not in params
    edit(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
        ),
    )
    refused(folder, "tie_word_embeddings", "lm_head.weight", "differs")


def test_broken_tensors_are_named(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = copy("qwen2", tmp_path / "a")
    edit(folder, lambda tensors: tensors.pop(name))
    refused(folder, name, "missing")
    folder = copy("qwen2", tmp_path / "b")
    edit(folder, lambda tensors: tensors.update({name: tensors[name][:-1]}))
    refused(folder, name, "(23, 16)", "(24, 16)")
    folder = copy("qwen2", tmp_path / "c")
    edit(
        folder, lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": tensors[name]})
    )
    refused(folder, "model.layers.2.mlp.up_proj.weight", "unexpected", "qwen2")
    folder = copy("qwen2", tmp_path / "d")
    edit(folder, lambda tensors: tensors.update({name: tensors[name].astype(np.int8)}))
    refused(folder, name, "I8", "quantised")


def test_broken_files_are_named(tmp_path):
    refused(tmp_path / "absent", "absent", "not a folder")
    refused("no-such-organisation/no-such-model", "no-such-model", "cannot be downloaded")
    folder = copy("qwen2", tmp_path)
    refused(folder / "config.json", "is a file")
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(damaged)
        refused(folder, "model.safetensors", "truncated")
    (folder / "model.safetensors").unlink()
    refused(folder, "holds neither model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(folder, "pytorch_model.bin", "convert")
    (folder / "config.json").write_text('{"model_type": ')
    refused(folder, "config.json", "JSON")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json", "list")
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    refused(folder, "config.json", "'mamba'", "llama", error=ModelConfigError)
    (folder / "config.json").unlink()
    refused(folder, "config.json", "does not exist")


def test_a_broken_index_is_named(tmp_path):
    folder = copy("llama_v4", tmp_path)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = sorted(set(index["weight_map"].values()))[0]
    path.write_text(
        json.dumps({**index, "weight_map": {**index["weight_map"], "extra.weight": first}})
    )
    refused(folder, "extra.weight", first)
    path.write_text(json.dumps({"metadata": {}}))
    refused(folder, "weight_map")
    path.write_text(json.dumps(index))
    (folder / first).unlink()
    refused(folder, first, "does not exist")


@pytest.mark.parametrize(
    "file",
    [
        "../elsewhere/secret.safetensors",
        "/etc/secret.safetensors",
        "a\\\\b.safetensors",
        "..",
        "",
        "weights.bin",
        3,
        None,
        ["x"],
    ],
)
def test_an_index_names_only_files_of_its_folder(tmp_path, file):
    folder = copy("qwen2", tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    tensors = (folder / "model.safetensors").rename(tmp_path / "elsewhere" / "secret.safetensors")
    names = load_file(tensors)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, file)})
    )
    refused(folder, "which is no .safetensors file of this folder", repr(file))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": ["llama"]},
        {"model_type": {"a": 1}},
        {"architectures": [3]},
        {"architectures": 3},
        {"hidden_act": ["silu"]},
        {"hidden_act": {}},
        {"num_hidden_layers": 10**18},
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**400},
        {"layer_types": 3},
        {"rope_scaling": {"rope_type": ["linear"]}},
        {"rope_scaling": {"rope_type": "linear", "factor": "two"}},
        {"rope_theta": 10**400},
        {"rms_norm_eps": "small"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_with_values_of_another_kind_is_one_line(tmp_path, change):
    folder = copy("qwen2", tmp_path)
    edit_config(folder, **change)
    with pytest.raises((ModelConfigError, ModelLoadError)) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, '{"vocab_size": ' + "9" * 5000 + "}", "[1]", "3", '"x"'],
    ids=["brackets", "braces", "digits", "list", "number", "text"],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_hostile_json_is_one_line(tmp_path, name, text):
    folder = copy("qwen2", tmp_path)
    if name != "config.json":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(text)
    refused(folder, name)
