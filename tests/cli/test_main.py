"""The command line: parsing, help, exit codes, errors in one line."""

import importlib
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf_jax import runs
from rlhf_jax.cli import main as cli
from rlhf_jax.cli.commands import check_rewards_built_in
from rlhf_jax.cli.main import exit_code, main
from rlhf_jax.config import ConfigError
from rlhf_jax.errors import RlhfError
from rlhf_jax.rewards.config import RewardConfig
from rlhf_jax.runs import answers
from rlhf_jax.runs.budgets import Measured, Table

REPO = pathlib.Path(__file__).resolve().parents[2]
TINY = """
algorithm: {name: sft}
run_dir: RUN
tokenizer: byte
model:
  config: {model_type: qwen2, vocab_size: 320, hidden_size: 16, num_hidden_layers: 1,
    num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32,
    max_position_embeddings: 64, rope_theta: 10000.0, tie_word_embeddings: true}
data: {path: "synthetic:arithmetic?size=64", eval_size: 16, max_length: 16, num_buckets: 1}
training: {batch_size: 8, eval_batch_size: 16, max_steps: 4, eval_every: 2, save_every: 2}
optimizer: {learning_rate: 1e-2, schedule: constant}
mesh: {fsdp: 1}
checkpoint: {keep_best: 1, best_metric: loss/total, best_mode: min}
logging: {tensorboard: false, plot: false}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def config(root):
    path = root / "tiny.yaml"
    path.write_text(TINY.replace("RUN", str(root / "run")))
    return path


@pytest.fixture(scope="module")
def run(config, root):
    assert main(["train", str(config), "--no-progress"]) == 0
    return root / "run"


def error_of(capsys, arguments, code):
    assert main(list(map(str, arguments))) == code
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, shown.err
    assert shown.err.endswith(lines[0] + "\n")
    assert "Traceback" not in shown.err
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["evaluate"],
        ["compare"],
        ["claims"],
        ["data"],
        ["export"],
        ["generate"],
        ["launch"],
        ["models"],
        ["algorithms"],
        ["bench"],
        ["quickstart"],
    ],
)
def test_help_has_examples_and_exit_codes(capsys, command):
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:\n  rlhf-jax " in text
    assert "exit codes:" in text
    assert max(map(len, text.splitlines())) <= 130


def test_train_help_lists_every_section_with_types_and_defaults(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"optimizer.learning_rate  \[a number or null\] = null\n      Peak learning rate", text
    )
    assert "training.max_steps  [a whole number or null] = null" in text
    assert "checkpoint.resume  [one of: auto, never, must] = auto" in text
    assert "run_dir  [text] (required)" in text
    assert "algorithm, when algorithm.name=dpo:\n  algorithm.beta  [a number] = 0.1\n" in text
    for section in ("model", "data", "training", "optimizer", "mesh", "checkpoint", "logging"):
        assert f"\n{section}:\n" in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"rlhf-jax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "no command: train, evaluate, compare, claims, data, export, generate, launch, models, "
            "algorithms, bench, plan, quickstart, report, show, metrics (see rlhf-jax --help)",
        ),
        (["trian"], "argument COMMAND: invalid choice: 'trian' (choose from "),
        (["train"], "the following arguments are required: CONFIG"),
        (
            ["train", "x.yaml", "--seed=3"],
            "unknown option '--seed=3'; an override has no dashes: seed=3",
        ),
        (["models", "extra"], "unknown argument 'extra'"),
        (["export", "a", "b", "--step", "two"], "argument --step: invalid int value: 'two'"),
        (
            ["export", "a", "b", "--step", "2", "--best"],
            "argument --best: not allowed with argument --step",
        ),
        (
            ["algorithms", "dop"],
            "'dop' is not an algorithm; there are sft, reward_model, dpo, kto, ppo, grpo, dapo; "
            "did you mean 'dpo'?",
        ),
        (["train", "nowhere/tini.yaml"], "nowhere/tini.yaml: no such configuration file"),
        (
            ["evaluate", "CONFIG", "--best"],
            "--step and --best choose a checkpoint of a run folder, and ",
        ),
        (
            ["evaluate", "."],
            ". holds no config.yaml, so it is no run; for a model folder: evaluate CONFIG "
            "model.path=.",
        ),
        (
            ["train", "CONFIG", "training.batchsize=4"],
            "training.batchsize: unknown key; allowed in training: batch_size, ",
        ),
        (
            ["train", "CONFIG", "training.batch_size=four"],
            "training.batch_size: 'four' is not allowed; allowed: a whole number (overr",
        ),
        (
            ["train", "CONFIG", "training.batch_size"],
            "override 'training.batch_size': write section.key=value",
        ),
        (
            ["train", "CONFIG", "algorithm.name=dpoo"],
            "algorithm.name: 'dpoo' is not an algorithm; allowed: sft, reward_model, dpo, ",
        ),
        (
            ["train", "CONFIG", "mesh.data=16", "run_dir=NEW"],
            "mesh data=16 x fsdp=1 x tensor=1 does not fit 8 devices",
        ),
        (
            ["train", "CONFIG", "run_dir=."],
            "run_dir=. is not empty and holds no config.yaml, so it is no run to resume",
        ),
    ],
)
def test_mistakes_exit_with_2(capsys, config, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").touch()
    monkeypatch.chdir(tmp_path / "here")
    new = str(tmp_path / "new")
    filled = [argument.replace("CONFIG", str(config)).replace("NEW", new) for argument in arguments]
    assert error_of(capsys, filled, 2).startswith(message)


def test_data_mistakes_exit_with_3(capsys, config, tmp_path):
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert "absent.jsonl" in error_of(
        capsys, ["train", config, run_dir, f"data.path={tmp_path}/absent.jsonl"], 3
    )
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    message = error_of(capsys, ["train", config, run_dir, f"data.path={tmp_path}/broken.jsonl"], 3)
    assert "broken.jsonl" in message
    (tmp_path / "empty.jsonl").touch()
    assert "empty.jsonl" in error_of(
        capsys, ["train", config, run_dir, f"data.path={tmp_path}/empty.jsonl"], 3
    )


def test_model_mistakes_exit_with_4(capsys, config, tmp_path):
    start = ["train", config, f"run_dir={tmp_path / 'run'}"]
    assert "qwen9" in error_of(capsys, [*start, "model.config.model_type=qwen9"], 4)
    absent = [*start, "model.config=null", f"model.path={tmp_path}/absent"]
    assert "absent" in error_of(capsys, absent, 4)
    assert "neither a run folder" in error_of(capsys, ["export", tmp_path, tmp_path / "out"], 4)


@pytest.mark.slow
def test_failed_training_exits_with_5(capsys, config, tmp_path):
    diverge = [
        "optimizer.learning_rate=1e38",
        "optimizer.name=sgd",
        "optimizer.max_grad_norm=null",
        "training.max_steps=30",
    ]
    quiet = ["training.max_nonfinite=1", "training.eval_every=0", "training.save_every=0"]
    message = error_of(
        capsys, ["train", config, f"run_dir={tmp_path / 'run'}", *quiet, *diverge], 5
    )
    assert "not finite 2 times in a row" in message


def test_train_evaluate_export(capsys, config, run, tmp_path):
    assert (run / "export" / "config.json").exists()
    assert main(["evaluate", str(run)]) == 0
    assert re.search(r"loss/total +│ +\d\.\d+", capsys.readouterr().out)
    assert main(["evaluate", str(run / "checkpoints" / "2")]) == 0
    assert capsys.readouterr().out.startswith(f"{run / 'checkpoints' / '2'} on held-out data\n")
    assert main(["evaluate", str(run), "--best", "training.eval_batch_size=8"]) == 0
    exported = ["model.config=null", f"model.path={run / 'export'}", "tokenizer=null"]
    assert main(["evaluate", str(config), *exported]) == 0
    assert f"{run / 'export'} on held-out data" in capsys.readouterr().out
    assert main(["export", str(run), str(tmp_path / "model"), "--step", "2"]) == 0
    assert capsys.readouterr().out == f"exported model: {tmp_path / 'model'}\n"
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "exists and is not an empty folder" in error_of(
        capsys, ["export", run, tmp_path / "model"], 2
    )
    assert "no checkpoint of step 3; there are 2, 4" in error_of(
        capsys, ["export", run, tmp_path / "other", "--step", "3"], 4
    )


def test_export_best_needs_a_metric(capsys, config, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(re.sub("(?m)^checkpoint:.*$", "", config.read_text()))
    message = "the run has no checkpoint.best_metric, so no checkpoint is best: leave --best out"
    assert message in error_of(capsys, ["export", tmp_path, tmp_path / "model", "--best"], 4)


def test_training_again_goes_on_and_prints_the_table(capsys, config, run):
    assert main(["train", str(config), "--no-progress"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"metric +┃ +step 0 +┃ +step 4 +┃", shown.out)
    assert f"run folder: {run} (4 steps)\nexported model: {run}/export\n" in shown.out
    assert "resume after step 4" in shown.err
    assert "never; give another run_dir" in error_of(
        capsys, ["train", config, "checkpoint.resume=never"], 2
    )


def test_tables(capsys):
    assert main(["models"]) == 0
    assert re.search(r"qwen2 +│ Qwen2, Qwen2.5 +│ Qwen2ForCausalLM", capsys.readouterr().out)
    assert main(["algorithms"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"dpo +│ preference pairs", text) and "dapo" in text
    assert main(["algorithms", "dpo"]) == 0
    assert (
        "  algorithm.beta  [a number] = 0.1\n      Strength of the pull" in capsys.readouterr().out
    )


def test_every_error_of_the_user_has_its_exit_code():
    """All of them stand below one base, wherever they are defined."""
    for module in ("runs", "config", "data", "models", "rewards", "io"):
        importlib.import_module(f"rlhf_jax.{module}")
    found, waiting = {}, [RlhfError]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        found[cls.__name__] = exit_code(cls("x"))
    assert found == {
        "RlhfError": 1,
        "CloudError": 1,
        "ConfigError": 2,
        "AddressError": 2,
        "RunFolderError": 2,
        "MetricsError": 2,
        "DataError": 3,
        "ModelConfigError": 4,
        "ModelLoadError": 4,
        "RopeError": 4,
        "CheckpointError": 4,
        "UnreadableError": 4,
        "TrainingError": 5,
        "DivergedError": 5,
        "RewardError": 5,
        "RewardProcessError": 5,
        "LostError": 6,
        "PeerError": 1,  # and that of the error that it tells of
    }


def test_only_errors_of_the_user_are_one_line(capsys, monkeypatch):
    def broken(options):
        return [][1]

    monkeypatch.setitem(importlib.import_module("rlhf_jax.cli.commands").COMMANDS, "models", broken)
    assert main(["models"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert exit_code(ValueError("raised below the library")) is None
    assert exit_code(PermissionError("x")) == 1


def test_debug_shows_the_traceback(capsys):
    assert main(["train", "absent.yaml", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith(
        "error: absent.yaml: no such configuration file\n"
    )


def test_an_interrupted_run_saves_and_exits_with_130(capsys, config, tmp_path):
    run_dir = tmp_path / "run"
    metrics = run_dir / "metrics.jsonl"

    def interrupt_when_training():
        while not metrics.exists() or metrics.read_text().count('"train"') < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_training)
    thread.start()
    arguments = [
        "train",
        str(config),
        f"run_dir={run_dir}",
        "training.max_steps=1000000",
        "training.eval_every=0",
    ]
    assert main([*arguments, "training.save_every=0"]) == 130
    thread.join()
    shown = capsys.readouterr()
    assert shown.out.endswith(
        "interrupted; the state is saved, and the same command goes on from there\n"
    )
    (step,) = [int(folder.name) for folder in (run_dir / "checkpoints").iterdir()]
    assert f"({step} steps)" in shown.out and step >= 3
    assert not (run_dir / "export").exists()


@pytest.mark.parametrize("text", ["grpo", ":3", "grpo:", "grpo:three"])
def test_a_cell_is_a_run_and_a_seed(capsys, text):
    file = str(pathlib.Path(__file__).parents[2] / "configs" / "compare_arithmetic.yaml")
    assert main(["compare", file, "--cell", text]) == 2
    assert f"--cell={text}: write RUN:SEED, for example grpo:3" in capsys.readouterr().err


def test_quickstart_prints_the_table(capsys, monkeypatch, tmp_path):
    def compare(config, *, progress, cell):
        assert (config.run_dir, config.seeds, progress) == (str(tmp_path), (3,), False)
        assert cell is None
        rows = [["dpo", "dpo", "0.250"], ["grpo", "grpo", "0.750"]]
        columns, seconds = ["run", "algorithm", "after"], {"sft": 60.0, "dpo": 30.4}
        return runs.Comparison(
            metric="accuracy/mean@4",
            target=0.7,
            runs=[
                Measured(name, name, 3, [], 1.0, 0.0, 1, 1, math.nan) for name in ("dpo", "grpo")
            ],
            columns=columns,
            rows=rows,
            best="grpo",
            ended=Table(["run", "seeds"], []),
            tuning=Table(["run"], []),
            budgets=Table(["run", "10 steps"], [["dpo", "0.200"], ["grpo", "0.500"]]),
            paired=Table(["run", "to grpo"], [["dpo", "-0.500"]]),
            seconds=seconds,
            folder=tmp_path,
        )

    found = answers.Answers(["1+2=", "3+4="], {"sft": [[("3", True), ("4", False)], [("7", None)]]})
    monkeypatch.setattr(runs, "compare", compare)
    monkeypatch.setattr(answers, "ask", lambda config: found)
    assert main(["quickstart", str(tmp_path), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("6 runs of a small model, three minutes on two idle CPU cores, into ")
    assert re.search(r"│ sft │ 3 \[4\] │ 7 ", shown) and "wrong ones in [brackets]" in shown
    assert re.search(r"┃ +dpo +┃ +grpo \(best\) +┃", shown) and re.search(
        r"after +│ +0.250 +│ +0.750", shown
    )
    assert re.search(r"10 steps +│ +0.200 +│ +0.500", shown)
    assert re.search(r"dpo +│ +-0.500 ", shown)
    assert "difference to the best after training, of one seed" in " ".join(shown.split())
    assert "90 s: sft 60 s, dpo 30 s" in shown
    assert f"picture of the learning curves: {tmp_path}/compare.png" in shown


def test_ctrl_c_exits_with_130(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(
        importlib.import_module("rlhf_jax.cli.commands").COMMANDS, "models", interrupted
    )
    left = []
    assert main(["models"], interrupted=lambda: left.append(True)) == 130
    assert capsys.readouterr().err == "interrupted\n" and left == [True]


def test_an_interruption_says_where_it_came(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt("in 2 of 6 (dpo); its step 3 is saved")

    monkeypatch.setitem(
        importlib.import_module("rlhf_jax.cli.commands").COMMANDS, "models", interrupted
    )
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "interrupted: in 2 of 6 (dpo); its step 3 is saved\n"


def test_a_process_answers_quickly_and_without_heavy_imports(config):
    code = (
        "import sys; from rlhf_jax.cli.main import main; code = main(sys.argv[1:]);"
        "print([m for m in ('transformers', 'datasets', 'orbax', 'flax', 'matplotlib') if m in "
        "sys.modules]); sys.exit(code)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    for arguments, status in ((["--help"], 0), (["train", str(config), "seed=x"], 2)):
        begin = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == status, result.stderr
        assert result.stdout.endswith("[]\n")
        assert time.monotonic() - begin < 20, "generous: other tests may share the cores"


def test_module_entry_point():
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_jax", "--version"],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout[:8]) == (0, "rlhf-jax")
    assert cli.__doc__


FOREIGN = """
algorithm: {name: grpo, group_size: 2}
run_dir: RUN
tokenizer: byte
model: {config: {model_type: qwen2, vocab_size: 320, hidden_size: 16, num_hidden_layers: 1,
    num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32}}
data: {path: "synthetic:arithmetic?size=64", eval_size: 16}
rewards: REWARDS
"""


@pytest.mark.parametrize("target", ["", "checkpoints", "checkpoints/3"])
@pytest.mark.parametrize(
    "rewards",
    [
        "[{function: 'os:system', options: {command: 'touch PWNED'}}]",
        "[{function: exact_match}, {function: 'HERE/grade.py:grade', weight: 0}]",
        "[{function: 'grade:grade'}]",
    ],
)
def test_evaluating_a_run_folder_runs_no_foreign_reward(
    tmp_path, capsys, monkeypatch, rewards, target
):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    marker = tmp_path / "PWNED"
    (tmp_path / "grade.py").write_text(
        f"open({str(marker)!r}, 'w')\ndef grade(prompts, completions): return [0.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = FOREIGN.replace("RUN", str(tmp_path)).replace(
        "REWARDS", rewards.replace("HERE", str(tmp_path))
    )
    (tmp_path / "config.yaml").write_text(text)
    assert main(["evaluate", str(tmp_path / target)]) == 2
    assert not marker.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "names the reward function" in error
    assert "--trust-rewards" in error


def test_trusted_and_built_in_rewards_are_not_refused():
    own = RewardConfig(function="file.py:grade")
    with pytest.raises(ConfigError, match="'file.py:grade'"):
        check_rewards_built_in([RewardConfig(function="math"), own], pathlib.Path("run"))
    check_rewards_built_in(
        [RewardConfig(function="math"), RewardConfig(function="model")], pathlib.Path("run")
    )


def test_a_function_that_a_program_handed_over_is_said():
    given = RewardConfig(function="<callable grade>", name="grade")
    message = r"^rewards.function=<callable grade> was handed over by the program"
    with pytest.raises(ValueError, match=message):
        check_rewards_built_in([given], pathlib.Path("run"))
