"""`rlhf-jax generate`: prompts from arguments and files, printed or as JSON, one-line errors."""

import json
import shutil
import sys

import jax
import pytest

import rlhf_jax.runs.complete  # noqa: F401  patched below
from rlhf_jax.cli.main import main
from rlhf_jax.data import byte_tokenizer
from rlhf_jax.models import ModelConfig, init_model
from rlhf_jax.runs.export import export_model
from tests.exported import random_export
from tests.models.tiny import hf_config, noisy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with the byte tokenizer; it is random, so it ends almost never."""
    return random_export(tmp_path_factory.mktemp("generate") / "model")


def error_of(capsys, arguments, code):
    assert main(["generate", *map(str, arguments)]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown.err
    return shown.err


def test_prints_completions(capsys, folder):
    arguments = [
        "generate",
        str(folder),
        "-n",
        "2",
        "--max-new-tokens",
        "4",
        "--top-k",
        "20",
        "one",
        "a  longer prompt",
    ]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    headers = [line for line in first.splitlines() if line.startswith("--- ")]
    assert headers == [
        "--- prompt 1, sample 1: one",
        "--- prompt 1, sample 2: one",
        "--- prompt 2, sample 1: a longer prompt",
        "--- prompt 2, sample 2: a longer prompt",
    ]
    assert main(arguments) == 0 and capsys.readouterr().out == first
    assert main([*arguments, "--seed", "1"]) == 0 and capsys.readouterr().out != first


@pytest.mark.slow
def test_writes_json_lines_and_a_run_is_its_export(capsys, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "export")
    (run / "config.yaml").write_text("")
    file, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    file.write_text("one\n\na longer prompt\n")
    arguments = ["--max-new-tokens", "4", "--greedy", "--output", str(output)]
    assert main(["generate", str(run), "--file", str(file), *arguments]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["one", "a longer prompt"]
    for row in rows:
        assert set(row) == {"prompt", "completion", "tokens", "truncated", "logp"}
        assert (
            1 <= row["tokens"] <= 4 and row["logp"] < 0 and row["truncated"] == (row["tokens"] == 4)
        )
    assert "2 completions" in capsys.readouterr().out
    rows_file = tmp_path / "prompts.jsonl"
    rows_file.write_text(
        '{"prompt": "one"}\n{"prompt": [{"role": "user", "content": "a longer prompt"}]}\n'
    )
    assert main(["generate", str(folder), "--file", str(rows_file), *arguments]) == 0
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert again[0] == {**rows[0], "logp": pytest.approx(rows[0]["logp"], abs=1e-4)}
    assert again[1]["prompt"] == [{"role": "user", "content": "a longer prompt"}]
    assert again[1]["logp"] != rows[1]["logp"], "the chat template stands around it"


def test_chat_applies_the_template(capsys, folder, monkeypatch):
    seen = []
    module = sys.modules["rlhf_jax.runs.complete"]
    original = module.make_generator

    def recording(*args, **options):
        generator = original(*args, **options)

        def call(params, rows, lengths, *rest):
            seen.append(byte_tokenizer().decode(rows[0][: lengths[0]].tolist()))
            return generator(params, rows, lengths, *rest)

        return call

    monkeypatch.setattr(module, "make_generator", recording)
    assert main(["generate", str(folder), "--chat", "hi", "--greedy", "--max-new-tokens", "4"]) == 0
    assert seen == ["<|user|>\nhi\n<|assistant|>\n"]


def test_a_rendered_prompt_that_is_wrapped_again_is_said(caplog, folder):
    rendered = byte_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], True)
    options = ["--greedy", "--max-new-tokens", "1"]
    assert main(["generate", str(folder), rendered, *options]) == 0 and not caplog.messages
    assert main(["generate", str(folder), "--chat", "hi", rendered, *options]) == 0
    [told] = caplog.messages
    assert "get a second wrapping" in told and told.endswith("(the first: prompt 2)")


@pytest.mark.slow
def test_stops(capsys, folder, tmp_path):
    arguments = ["generate", str(folder), "one", "--greedy", "--max-new-tokens", "8"]
    assert main(arguments) == 0
    whole = capsys.readouterr().out.removesuffix(" [cut at --max-new-tokens]\n")
    assert len(whole) >= 4
    assert main([*arguments, "--stop", whole[2:4]]) == 0
    shown = capsys.readouterr()
    assert shown.out == whole[: whole.index(whole[2:4])] + "\n" and shown.err == ""
    assert main([*arguments, "--stop", "never this", "--stop", whole[0]]) == 0
    shown = capsys.readouterr()
    assert (
        shown.out == "[the model ended at once]\n"
        and "--chat" in shown.err
        and shown.err.count("\n") == 1
    )
    assert main([*arguments, "--stop", whole[0], "--output", str(tmp_path / "out.jsonl")]) == 0
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["completion"], row["tokens"], row["truncated"]) == ("", 1, False)
    shutil.copytree(folder, tmp_path / "model")
    first = byte_tokenizer().encode(whole)[0]
    (tmp_path / "model" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [257, first]})
    )
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "model"), *arguments[2:]]) == 0
    assert capsys.readouterr().out == "[the model ended at once]\n"


def test_context(capsys, tmp_path):
    """The rotary scaling follows the context, not the rows; the default is the model's longest."""
    scaling = {"rope_type": "dynamic", "factor": 4.0}
    names = {
        "vocab_size": 320,
        "num_hidden_layers": 1,
        "max_position_embeddings": 16,
        "rope_scaling": scaling,
    }
    model, params = init_model(ModelConfig.from_hf(hf_config("llama", **names)), jax.random.key(0))
    scaled = export_model(tmp_path / "model", model, noisy(params), byte_tokenizer())

    def logp(*arguments):
        output = tmp_path / "out.jsonl"
        options = ["--max-new-tokens", "1", "--greedy", "--output", str(output), *arguments]
        assert main(["generate", str(scaled), "some words", *options]) == 0
        return json.loads(output.read_text())["logp"]

    assert logp() == logp("--context", "16") != logp("--context", "64")
    error = error_of(capsys, [scaled, "some words", "--max-new-tokens", 8, "--context", 17], 2)
    assert (
        "--context 17 is less than the longest prompt of 10 tokens with --max-new-tokens 8: give "
        "at least 18" in error
    )
    assert "--context 0 must be at least 1" in error_of(capsys, [scaled, "x", "--context", 0], 2)


def test_errors(capsys, folder, tmp_path):
    assert "no prompts" in error_of(capsys, [folder], 2)
    assert "--max-new-tokens 0" in error_of(capsys, [folder, "x", "--max-new-tokens", 0], 2)
    assert "--stop ''" in error_of(capsys, [folder, "x", "--stop", ""], 2)
    assert "not both" in error_of(capsys, [folder, "x", "--file", "y.txt"], 2)
    assert "all the same" in error_of(capsys, [folder, "x", "-n", 2, "--greedy"], 2)
    assert "no such file" in error_of(capsys, [folder, "--file", tmp_path / "absent.txt"], 2)
    assert "absent.jsonl" in error_of(capsys, [folder, "--file", tmp_path / "absent.jsonl"], 3)
    assert "top_p=1.5" in error_of(capsys, [folder, "x", "--top-p", 1.5], 2)
    assert "is not a folder" in error_of(capsys, [tmp_path / "absent", "x"], 4)
    assert "not allowed with" in error_of(capsys, [folder, "x", "--greedy", "--temperature", 1], 2)
    assert "unknown argument '--what'" in error_of(capsys, [folder, "x", "--what"], 2)
    assert "its folder does not exist" in error_of(
        capsys, [folder, "x", "--output", tmp_path / "a" / "b.jsonl"], 2
    )
    assert "step=3 chooses a checkpoint of a run" in error_of(capsys, [folder, "x", "--step", 3], 4)
    (tmp_path / "config.yaml").write_text("")
    assert "without an export and without a checkpoint" in error_of(capsys, [tmp_path, "x"], 4)
