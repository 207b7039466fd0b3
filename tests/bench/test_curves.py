"""Curves beside TRL's: what both sides are asked for, what is made of their losses, the command."""

import json

import jax
import numpy as np
import pytest

from rlhf_jax.bench import curves, suite
from rlhf_jax.bench.offline_runs import Run
from rlhf_jax.cli.main import main
from rlhf_jax.data import byte_tokenizer, load_tokenizer
from rlhf_jax.models import ModelConfig, init_model, load_pretrained
from rlhf_jax.runs.export import export_model

TINY = {
    "model_type": "qwen2",
    "vocab_size": 320,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def run_of(*losses, accuracy=0.5):
    steps = len(losses)
    return Run([*losses], [1.0] * steps, 10**9, [0.1] * steps, {"loss": 0.5, "accuracy": accuracy})


@pytest.fixture
def start(tmp_path):
    model, params = init_model(ModelConfig.from_hf(TINY), jax.random.key(0))
    return export_model(tmp_path / "start", model, params, byte_tokenizer())


@pytest.fixture
def sides(monkeypatch):
    """Both sides without their runs; returns what they are asked for."""
    asked = {}

    def ours(folder, args, number, *, held_out, overrides):
        asked["ours"] = dict(overrides)
        asked["rows"] = [
            json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()
        ]
        asked["held_out"] = len(held_out.read_text().splitlines())
        return run_of(0.5, 0.4)

    def theirs(folder, args, number, **options):
        asked["TRL"] = options
        return run_of(0.5, 0.4)

    monkeypatch.setattr(curves, "run_ours", ours)
    monkeypatch.setattr(curves, "run_trl", theirs)
    monkeypatch.setattr(suite, "partner_versions", lambda python: {"trl": "9.9"})
    return asked


def test_a_difference_is_relative():
    found = curves.Curves("dpo", run_of(1.001, 2.0), run_of(1.0, 2.0))
    np.testing.assert_allclose(found.differences, [1e-3, 0], rtol=1e-6)
    assert not curves.Curves("dpo", run_of(1.002, 2.0), run_of(1.0, 2.0)).passed
    assert curves.Curves("dpo", run_of(1.0009, 2.0), run_of(1.0, 2.0)).passed
    assert not curves.Curves("dpo", run_of(float("nan"), 2.0), run_of(1.0, 2.0)).passed
    # A loss of 0 is measured by a hundredth of the mean, 0.01 here.
    near_zero = curves.Curves("dpo-hinge", run_of(1e-5, 2.0), run_of(0.0, 2.0))
    np.testing.assert_allclose(near_zero.differences, [1e-3, 0], rtol=1e-6)


def test_both_sides_are_asked_for_the_same(sides, start):
    (found,) = curves.measure(["dpo-robust"], python="python", model=start, steps=3)
    assert found.name == "dpo-robust" and found.passed
    options = {"loss_type": "robust", "label_smoothing": 0.1}
    assert sides["ours"] == {
        "optimizer.schedule": "constant",
        **{f"algorithm.{name}": value for name, value in options.items()},
    }
    assert sides["TRL"].pop("held_out").name == "held_out.jsonl"
    assert sides["TRL"] == {"schedule": "constant", **options}
    assert len(sides["rows"]) == 3 * curves.BATCH_SIZE and sides["held_out"] == curves.HELD_OUT


def test_sft_learns_the_chosen_answer(sides, start):
    list(curves.measure(["sft"], python="python", model=start, steps=1))
    assert all(set(row) == {"prompt", "completion"} for row in sides["rows"])


def test_a_reward_model_starts_from_one_head(start, tmp_path):
    folder = curves.with_head(start, tmp_path / "head")
    first, again = (load_pretrained(folder, head="reward")[1]["score"]["kernel"] for _ in "ab")
    np.testing.assert_array_equal(first, again)
    assert float(np.abs(first).max()) > 0
    assert (folder / "tokenizer.json").read_text() == (start / "tokenizer.json").read_text()


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_of_a_given_model_rows_end_at_the_stop_token_and_padding_is_another(start, tmp_path, place):
    turn = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    prompt = "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    options = json.loads((start / "tokenizer_config.json").read_text())
    if place == "chat_template.jinja":
        (start / place).write_text(turn + prompt)
    else:
        options |= {"chat_template": turn + prompt}
    options |= {"pad_token": options["eos_token"], "unk_token": "a"}
    (start / "tokenizer_config.json").write_text(json.dumps(options))
    curves.ending_alike(start, tmp_path / "copy")
    before, after = map(load_tokenizer, (start, tmp_path / "copy"))
    asked = [{"role": "user", "content": "q"}]
    talk = [*asked, {"role": "assistant", "content": "a"}]
    whole = before.apply_chat_template(talk)
    assert whole.endswith("\n") and whole.count("\n") == 2
    assert after.apply_chat_template(talk) == whole.removesuffix("\n")
    for tokenizer in (before, after):
        opened = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
        assert opened.endswith("<assistant>\n")
    assert after.special_tokens["pad_token"] == "a"
    shape = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert shape["pad_token_id"] == after.encode("a")[0]
    weights = "model.safetensors"
    assert (tmp_path / "copy" / weights).read_bytes() == (start / weights).read_bytes()

    options |= {"unk_token": None}
    (start / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match="padding and stop are one token"):
        curves.ending_alike(start, tmp_path / "other")


def test_long_pairs_are_left_out(sides, start, tmp_path):
    rows = tmp_path / "rows.jsonl"
    talk = [{"role": "user", "content": "p"}]
    answers = {"chosen": "c", "rejected": "r"}, {"chosen": "c", "rejected": "r" * 300}
    texts = [{"prompt": "p", **answer} for answer in answers]
    talks = [
        {"prompt": talk}
        | {name: [{"role": "assistant", "content": text}] for name, text in answer.items()}
        for answer in answers
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in (*texts * 3, *talks * 2)))
    list(curves.measure(["dpo"], python="python", model=start, rows=rows, steps=1))
    assert sides["rows"] == [texts[0], texts[0], texts[0], talks[0]] and sides["held_out"] == 1


def test_the_command_writes_both_curves(sides, tmp_path, start, capsys):
    command = ["bench", "--curves", "sft", "dpo", "--model", str(start), "--steps", "2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "trl 9.9" in printed and "0.0e+00" in printed
    found = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert list(found) == ["sft", "dpo"] and found["dpo"]["TRL"]["losses"] == [0.5, 0.4]
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_fails_where_losses_differ(sides, monkeypatch, start):
    monkeypatch.setattr(curves, "run_trl", lambda *args, **options: run_of(0.6, 0.4))
    assert main(["bench", "--curves", "dpo", "--model", str(start), "--steps", "2"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curves", "kto"], "--curves has no 'kto'; it has sft, "),
        (["--curves", "sft", "--steps", "0"], "--steps=0 must be at least 1"),
        (
            ["--curves", "sft", "--rows", "few.jsonl"],
            "few.jsonl has 1 pairs of at most 256",
        ),
        (["--steps", "3"], "--steps=3 has no meaning for"),
    ],
)
def test_mistakes_are_one_line(words, message, sides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_our_side_alone(start, monkeypatch):
    """A real run of our side, held-out rows included."""
    monkeypatch.setattr(curves, "run_trl", lambda *args, **options: run_of(0.5, 0.5))
    (found,) = curves.measure(["dpo-ipo"], python="python", model=start, steps=2)
    assert len(found.ours.losses) == len(found.ours.margins) == 2
    assert set(found.ours.held_out) == {"loss", "accuracy"}
