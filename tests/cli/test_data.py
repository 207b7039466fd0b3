"""`rlhf-jax data`: rows as trained on, plain when piped, for every algorithm; writes nothing."""

import json
import pathlib

import pytest

from rlhf_jax.cli.data import OPENED, Part, printable, show_parts
from rlhf_jax.cli.main import main
from rlhf_jax.config import load_config
from rlhf_jax.data import byte_tokenizer

MODEL = (
    "{model_type: llama, vocab_size: 264, hidden_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, intermediate_size: 16}"
)


def write(path: pathlib.Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(tmp_path, capsys, algorithm: str, rows: list[dict], *arguments: str) -> str:
    path = write(tmp_path / "rows.jsonl", rows)
    config = tmp_path / "config.yaml"
    rewards = "rewards: [{function: exact_match}]\n" if algorithm in ("ppo", "grpo", "dapo") else ""
    config.write_text(
        f"algorithm: {{name: {algorithm}}}\nrun_dir: {tmp_path / 'run'}\ntokenizer: byte\n{rewards}"
        f"model: {{config: {MODEL}}}\ndata: {{path: {path}}}\n"
    )
    code = main(["data", str(config), *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert not (tmp_path / "run").exists(), "looking at data starts no run"
    return captured.out


CHAT = [
    {"role": "user", "content": "Hi \x1b[31m\u202e"},
    {"role": "assistant", "content": "Yes\nsir"},
]


def test_text(tmp_path, capsys):
    out = run(tmp_path, capsys, "sft", [{"messages": CHAT}] * 3, "--rows", "2")
    question = "<|user|>\\n\nHi \\x1b[31m\\u202e\\n\n<|assistant|>\\n\n"
    assert (
        f"\n--- row 1: 24 tokens, 8 trained\n{question}\u27e6Yes\\n\nsir<|endoftext|>\u27e7\n"
        in out
    )
    assert "--- row 2" in out and "--- row 3" not in out
    assert "\x1b" not in out and "\u202e" not in out
    assert (
        "rows " in out
        and "72, 33.3 % trained" in out
        and "shortened to data.max_length 1024  0 (0.0 %)" in out
    )
    assert "an answer ends with '<|endoftext|>'" in out


def test_shares(tmp_path, capsys):
    rows = [{"prompt": "q" * size, "completion": "a"} for size in (5, 90, 95, 98)] + [
        {"prompt": "q", "completion": " "}
    ]
    out = run(
        tmp_path,
        capsys,
        "sft",
        rows,
        "--rows",
        "0",
        "data.max_length=96",
        "data.on_error=skip",
        "data.max_prompt_len=95",
    )
    assert "shortened to data.max_length 96  2 (50.0 %)" in out
    assert "left out: empty text" in out and "1 (20.0 %)" in out
    assert "tokens a row (median 94, longest 96)" in out
    bars = [
        line
        for line in out.splitlines()
        if " - " in line and line.split()[-1] != "0" and "#" in line
    ]
    assert [int(line.split()[-1]) for line in bars] == [1, 3]


def test_pairs(tmp_path, capsys):
    out = run(tmp_path, capsys, "dpo", [{"prompt": "q:", "chosen": " good", "rejected": " bad"}])
    assert "--- row 1 chosen: 8 tokens, 6 trained\nq:\u27e6 good<|endoftext|>\u27e7" in out
    assert "--- row 1 rejected: 7 tokens, 5 trained\nq:\u27e6 bad<|endoftext|>\u27e7" in out


def test_unpaired(tmp_path, capsys):
    rows = [{"prompt": f"q{n}:", "completion": " good", "label": n == 0} for n in range(5)]
    out = run(tmp_path, capsys, "kto", rows, "--rows", "2")
    assert "--- row 1 desirable: 9 tokens, 6 trained\nq0:\u27e6 good<|endoftext|>\u27e7" in out
    assert "--- row 2 undesirable: 9 tokens" in out and "--- row 3" not in out
    assert "45, 66.7 % trained" in out
    assert "1 desirable, 4 undesirable answers; KTO eq. 8 asks for desirable_weight" in out


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "dapo"])
def test_prompts(tmp_path, capsys, algorithm):
    rows = [{"prompt": CHAT[:1], "answer": "4\x07"}, {"prompt": "x" * 600, "answer": "5"}]
    overrides = ["rollout.max_prompt_len=64", "data.system_prompt=Sum.", "data.conversational=true"]
    out = run(tmp_path, capsys, algorithm, rows, *overrides)
    assert (
        "--- prompt 1: 23 tokens\n<|system|>\\n\nSum.\\n\n<|user|>\\n\nHi "
        "\\x1b[31m\\u202e\\n\n<|assistant|>\\n\n" in out
    )
    assert "answer: '4\\x07'" in out
    assert "left out: prompt too long" in out and "1 (50.0 %)" in out
    assert OPENED not in out.partition("tokens a prompt")[0]


def test_notes_and_unrolled(tmp_path, capsys):
    template = (
        "{% for m in messages %}{{ m.role + ':' }}"
        "{{ (m.content if loop.last else m.content.split(']')[-1]) + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    chat = [*CHAT[:1], {"role": "assistant", "content": "[t]a"}, *CHAT]
    (tmp_path / "mine.jinja").write_text(template)
    out = run(
        tmp_path,
        capsys,
        "sft",
        [{"messages": chat}],
        f"data.chat_template={tmp_path / 'mine.jinja'}",
    )
    assert "1 conversations into 2 rows" in out


def test_options_from_the_command_line(tmp_path, capsys):
    template = "{{ tools | tojson }}{{ style }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "mine.jinja").write_text(template)
    overrides = [
        "data.chat_template_kwargs={style: short}",
        "data.tools=[{name: add}]",
        f"data.chat_template={tmp_path / 'mine.jinja'}",
    ]
    out = run(
        tmp_path,
        capsys,
        "sft",
        [{"messages": [{"role": "user", "content": "q"}, CHAT[1]]}],
        *overrides,
    )
    assert '[{"name": "add"}]shortq\u27e6Yes' in out


def test_every_stop_is_named(tmp_path, capsys):
    overrides = ["rollout.stop=['<|user|>', '\\n\\nHuman:', '###']"]
    out = run(tmp_path, capsys, "sft", [{"prompt": "q", "completion": "a"}], *overrides)
    assert (
        "an answer ends with '<|endoftext|>', '<|user|>', '\\\\n\\\\nHuman:', '###'"
        in out.splitlines()[0]
    )


FIRST = "{% for m in messages %}first{{ m.content }}{{ eos_token }}{% endfor %}"


def start_of_another(
    run_dir: pathlib.Path, *, checkpoint: bool, template: str | None = None
) -> None:
    """What a run of this configuration left, with a tokenizer that no start of today would make."""
    run_dir.mkdir()
    byte_tokenizer().with_chat_template(FIRST).save(run_dir / "tokenizer")
    config = load_config(
        run_dir.parent / "config.yaml", [f"data.chat_template={template}"] if template else []
    )
    (run_dir / "config.yaml").write_text(config.to_yaml())
    if checkpoint:
        (run_dir / "checkpoints" / "3").mkdir(parents=True)


@pytest.mark.parametrize(
    ("checkpoint", "template", "overrides", "used"),
    [
        (False, None, [], False),  # a start that failed: training makes a new tokenizer
        (True, None, [], True),  # a run that goes on
        (True, None, ["data.max_examples=1"], False),  # none that does: what the configuration says
        (True, None, ["rollout.stop=['###']"], False),
        (True, None, ["training.max_steps=9"], True),
        (True, "x{{ messages[1].content }}", [], False),
    ],
)
def test_the_tokenizer_that_training_would_use(
    tmp_path, capsys, checkpoint, template, overrides, used
):
    run(tmp_path, capsys, "sft", [{"messages": CHAT}])
    start_of_another(tmp_path / "run", checkpoint=checkpoint, template=template)
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", str(tmp_path / "config.yaml"), *overrides]) == 0
    out = capsys.readouterr().out
    assert ("first" in out) == used and ("<|user|>" in out) != used
    assert sorted(tmp_path.rglob("*")) == before


def test_the_tokenizer_of_the_run_that_is_started_from(tmp_path, capsys):
    run(tmp_path, capsys, "sft", [{"messages": CHAT}])
    start_of_another(tmp_path / "run", checkpoint=True)
    overrides = [
        f"checkpoint.start_from={tmp_path / 'run'}@3",
        f"run_dir={tmp_path / 'next'}",
        "data.max_length=512",
    ]
    assert main(["data", str(tmp_path / "config.yaml"), *overrides]) == 0
    assert "first" in capsys.readouterr().out
    template = FIRST.replace("first", "second")
    assert (
        main(
            ["data", str(tmp_path / "config.yaml"), *overrides, f"data.chat_template='{template}'"]
        )
        == 0
    )
    assert "first" not in capsys.readouterr().out


def test_transcripts(tmp_path, capsys):
    start = "\n\nHuman: q\n\nAssistant:"
    rows = [{"chosen": start + " good", "rejected": start + " bad"}]
    out = run(tmp_path, capsys, "dpo", rows, "data.transcript=true")
    assert "<|user|>\\n\nq\\n\n<|assistant|>\\n\n\u27e6good<|endoftext|>\u27e7" in out


def test_mistakes(tmp_path, capsys):
    assert main(["data", str(tmp_path / "none.yaml")]) == 2
    assert main(["data", str(tmp_path / "none.yaml"), "--rows", "-1"]) == 2
    assert main(["data"]) == 2
    assert "--rows -1 must not be negative" in capsys.readouterr().err


def test_colour_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    show_parts([Part("[bold]q\x1b", False), Part("a", True)])
    out = capsys.readouterr().out
    assert "[bold]q\\x1b" in out and "\x1b[1;32ma" in out and OPENED not in out


def test_printable():
    assert (
        printable("a\tb\r\n\u0000\u2028\ue000\u00e9\U0001f600")
        == "a\\tb\\r\\n\n\\x00\\u2028\\ue000\u00e9\U0001f600"
    )
