"""What whole runs say and write: rows, exports while training, samples, diagnoses."""

import logging
from types import SimpleNamespace

import pytest
import safetensors

from rlhf_jax.io import read_metrics
from rlhf_jax.runs import train
from rlhf_jax.runs.export import export, exporter


def rows(run_dir, split="train"):
    return [row for row in read_metrics(run_dir) if row["split"] == split]


def dtypes(folder):
    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}


@pytest.mark.slow
def test_rows_between_are_means_and_every_checkpoint_and_the_end_have_one(tiny_config, tmp_path):
    common = {"training": {"max_steps": 8, "eval_every": 0, "save_every": 7}}
    every = train(tiny_config("sft", run_dir=tmp_path / "every", **common), progress=False)
    training = common["training"] | {"log_every": 3}
    config = tiny_config("sft", run_dir=tmp_path / "some", training=training)
    some = train(config, progress=False)
    whole = {row["step"]: row for row in rows(every.run_dir)}
    found = {row["step"]: row for row in rows(some.run_dir)}
    assert sorted(whole) == list(range(1, 9)) and sorted(found) == [3, 6, 7, 8]
    for step, several in ((3, (1, 2, 3)), (7, (7,))):
        mean = sum(whole[one]["loss/total"] for one in several) / len(several)
        assert found[step]["loss/total"] == pytest.approx(mean, rel=1e-6)
        assert found[step]["epoch"] == whole[step]["epoch"]


@pytest.mark.slow
def test_checkpoints_that_stay_and_exports_on_the_way(tiny_config, caplog):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    config = tiny_config(
        "sft",
        training={"max_steps": 8, "eval_every": 0, "save_every": 1},
        checkpoint={"keep_last": 1, "keep_every": 3, "export_every": 4, "export_dtype": "bfloat16"},
    )
    run_dir = train(config, progress=False).run_dir
    assert sorted(int(path.name) for path in (run_dir / "checkpoints").glob("[0-9]*")) == [3, 6, 8]
    assert sorted(path.name for path in (run_dir / "exports").iterdir()) == ["step_4", "step_8"]
    for name in ("exports/step_4", "export"):
        assert dtypes(run_dir / name) == {"BF16"}
        assert (run_dir / name / "generation_config.json").exists()
    assert "each of 3 exports is " in caplog.text
    folder = export(str(run_dir), str(run_dir / "half"), step=3, dtype="float16")
    assert dtypes(folder) == {"F16"}


def test_an_online_run_tells_whether_it_learns(online_config, caplog):
    caplog.set_level(logging.INFO, logger="rlhf_jax")
    train(online_config("grpo", training={"max_steps": 6, "eval_every": 6}), progress=False)
    steps = [text for text in caplog.messages if text.startswith("step ") and "/6: " in text]
    assert steps and all(text.split(": ")[1].startswith("reward ") for text in steps)
    assert all("equal groups " in text and "loss" not in text for text in steps)
    assert any(text.startswith("step 6/6 held-out: right sampled ") for text in caplog.messages)
    for kind in ("held-out, greedy", "held-out, sampled", "training"):
        assert f"step 6 samples ({kind}):" in caplog.messages
    compiling = [text for text in caplog.messages if text.startswith("compiling ")]
    assert any(text.startswith("compiling update (") for text in compiling)
    # random weights never answer a sum: every group has equal rewards
    told = [text for text in caplog.messages if "diagnosis: " in text]
    assert sum("docs/diagnosis.md#equal-groups" in text for text in told) == 1


def test_a_model_of_ones_own_cannot_be_exported_on_the_way(tiny_config, tmp_path):
    config = tiny_config("sft", checkpoint={"export_every": 4})
    own = SimpleNamespace(config=object())
    with pytest.raises(ValueError, match="^checkpoint.export_every=4: a model of one's own"):
        exporter(config, tmp_path, own, None)
