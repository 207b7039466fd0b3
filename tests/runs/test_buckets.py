"""Whole runs in a bucket, by programs that share nothing else; the buckets are emulators on this
machine."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from rlhf_jax import cloud
from rlhf_jax.cli.launch import environment_of, free_port
from rlhf_jax.config import dump_config
from rlhf_jax.io.stored import complete_steps
from rlhf_jax.models import load_pretrained
from rlhf_jax.runs.compilation import cache_folder
from rlhf_jax.runs.export import load_checkpoint
from rlhf_jax.sharding import make_mesh
from tests import emulators
from tests.conftest import REPO
from tests.processes.conftest import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TRAINING = {"max_steps": 6, "save_every": 2, "eval_every": 2}
BEST = {"keep_best": 1, "best_metric": "loss/total"}


@pytest.fixture(scope="module", params=("gs", "s3"))
def bucket(request):
    yield from emulators.start(request.param)


@pytest.fixture
def host(tmp_path, bucket):
    """(name of a host, arguments, ...) -> a program that begins there: no folder is shared."""
    started = []
    root = cache_folder("auto")
    assert root is not None

    def begin(name, *arguments, kill_at=0, more=None):
        home = tmp_path / "hosts" / name
        for folder in ("home", "tmp", "work"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        environment = os.environ | bucket.variables | (more or {})
        environment |= {
            "HOME": str(home / "home"),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]),
            "JAX_COMPILATION_CACHE_DIR": str(root / "tests" / "buckets"),
        }
        log = home / f"{len(started)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.runs.bucket_child", str(kill_at), *arguments],
                env=environment,
                cwd=home / "work",
                stdout=file,
                stderr=file,
            )
        started.append(process)
        return process, log

    yield begin
    for process in started:
        process.kill()
        process.wait()


def ended(process, log):
    """The exit code, and what was said."""
    code = process.wait(timeout=600)
    return code, log.read_text()


def export_of(config):
    """Tensors of the export that lies in the bucket."""
    folder = cloud.place(config.run_dir) / "export"
    return load_file(cloud.fetched(str(folder)) / "model.safetensors")


def completions(folder):
    """Rows of everything that was generated, in one order."""
    return sorted(pyarrow.parquet.read_table(folder).to_pylist(), key=str)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


def written(config, path):
    dump_config(config, path)
    return str(path)


def test_a_killed_run_goes_on_with_the_same_bits(
    bucket, tiny_config, online_config, host, tmp_path
):
    """With completions in the one kind of bucket, with best checkpoints in the other."""
    algorithm = "grpo" if bucket.address("run").startswith("gs:") else "dpo"
    options = {"training": TRAINING, "logging": {"tensorboard": True}}
    options["checkpoint"] = {"export_every": 4} | (BEST if algorithm == "dpo" else {})
    build = online_config if algorithm == "grpo" else tiny_config
    whole = build(algorithm, run_dir=tmp_path / "whole", **options)
    broken = build(algorithm, run_dir=bucket.address(f"runs/{algorithm}"), **options)
    code, said = ended(*host("c", "train", written(whole, tmp_path / "whole.yaml")))
    assert code == 0, said
    path = written(broken, tmp_path / "broken.yaml")
    code, said = ended(*host("a", "train", path, kill_at=4))
    assert code == -9, said
    folder = cloud.place(broken.run_dir)
    assert 2 in complete_steps(folder / "checkpoints")
    code, said = ended(*host("b", "train", path))
    assert code == 0, said
    assert "is locked by process" in said and "resume after step" in said
    assert rows_of(broken) == rows_of(whole)
    assert_equal(export_of(broken), load_file(tmp_path / "whole" / "export" / "model.safetensors"))
    if algorithm == "grpo":
        assert completions(cloud.fetched(f"{broken.run_dir}/completions")) == completions(
            tmp_path / "whole" / "completions"
        )
    names = {child.name for child in folder.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.jsonl", "tokenizer", "tensorboard"} <= names
    assert ".lock" not in names
    assert (folder / "log.txt").read_text().count("run folder") == 2
    assert complete_steps(folder / "checkpoints")[-1] == 6
    assert cloud.files_below(folder / "exports" / "step_4")
    for name in "abc":
        assert not list((tmp_path / "hosts" / name / "tmp").glob("rlhf_jax-*/config.yaml")) or (
            name == "a"  # which was killed
        )


def test_two_hosts_train_and_one_takes_over(bucket, tiny_config, host, tmp_path):
    config = tiny_config(
        "sft",
        run_dir=bucket.address("runs/two"),
        training=TRAINING,
        mesh={"data": 2, "fsdp": 2, "tensor": 1},
    )
    path = written(config, tmp_path / "two.yaml")

    def both(*, kill_at):
        port = free_port()
        return [
            host(
                f"h{number}",
                "train",
                path,
                kill_at=kill_at if number else 0,
                more=environment_of(number, 2, port, 2, os.environ),
            )
            for number in range(2)
        ]

    ends = [ended(*one) for one in both(kill_at=4)]
    assert ends[1][0] == -9 and ends[0][0] == 6, ends[0][1]
    ends = [ended(*one) for one in both(kill_at=0)]
    assert [code for code, _ in ends] == [0, 0], "\n".join(said for _, said in ends)
    params = load_checkpoint(
        cloud.place(config.run_dir), 6, mesh=make_mesh({}, devices=jax.devices()[:1])
    )[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    target = tmp_path / "exported"
    code, said = ended(*host("one", "export", config.run_dir, str(target)))
    assert code == 0, said
    assert_equal(load_file(target / "model.safetensors"), export_of(config))
    # a host alone makes two more steps
    more = ["mesh.data=1", "mesh.fsdp=1", "training.max_steps=8", "logging.plot=false"]
    code, said = ended(*host("one", "train", path, *more))
    assert code == 0, said
    assert complete_steps(cloud.place(config.run_dir) / "checkpoints")[-1] == 8


def test_what_a_run_reads_may_lie_in_a_bucket(bucket, tiny_config, host, tmp_path):
    data = cloud.place(bucket.address("data"))
    (data / "train.jsonl").write_text(
        "".join(f'{{"text": "{n} plus {n} is {2 * n}"}}\n' for n in range(40))
    )
    first = tiny_config(
        "sft",
        run_dir=bucket.address("runs/first"),
        training={"max_steps": 1, "eval_every": 0},
        data={"path": bucket.address("data"), "eval_size": 8, "max_length": 32},
    )
    code, said = ended(*host("a", "train", written(first, tmp_path / "first.yaml")))
    assert code == 0, said
    export = f"{first.run_dir}/export"
    _, params = load_pretrained(export)
    assert params
    further = [f"checkpoint.start_from={first.run_dir}", f"run_dir={bucket.address('runs/second')}"]
    code, said = ended(
        *host("b", "train", str(tmp_path / "first.yaml"), *further, "training.max_steps=2")
    )
    assert code == 0, said
    assert f"start from step 1 of {first.run_dir}" in said
    code, said = ended(*host("b", "evaluate", first.run_dir))
    assert code == 0 and "loss/total" in said, said
    code, said = ended(*host("b", "generate", first.run_dir, "1 plus", "--max-new-tokens", "3"))
    assert code == 0, said


def test_one_run_at_a_time(bucket, tiny_config, host, tmp_path):
    endless = {"max_steps": 100_000, "save_every": 0, "eval_every": 0}
    config = tiny_config("sft", run_dir=bucket.address("runs/busy"), training=endless)
    path = written(config, tmp_path / "busy.yaml")
    process, log = host("a", "train", path)
    until = time.monotonic() + 300
    while "step 1/" not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    code, said = ended(*host("b", "train", path))
    assert code == 2, said
    last = said.strip().splitlines()[-1]
    assert (
        f"run_dir={config.run_dir} is in use by another process (process {process.pid} on" in last
    )
    # preempted: the state is saved, and the folder is free at once
    process.terminate()
    code, said = ended(process, log)
    assert code == 130, said
    steps = complete_steps(cloud.place(config.run_dir) / "checkpoints")
    assert len(steps) == 1 and not (cloud.place(config.run_dir) / ".lock").exists()
    assert pathlib.Path(path).is_file()
