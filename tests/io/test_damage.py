"""Damaged checkpoints: every file, nine kinds of damage, and never another value without a word."""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.cli.main import exit_code
from rlhf_jax.io import Checkpointer, CheckpointError
from rlhf_jax.io.fingerprint import params_fingerprint
from rlhf_jax.io.seal import DamagedError, Meta, seal, unseal
from rlhf_jax.sharding import make_mesh
from tests.io.damage import damaged_files
from tests.io.test_checkpoint import abstract, assert_same_bits, make_state

META = {"data": "x", "position": {"place": 5, "tally": {"a": 0.1}}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """Checkpoints 4 and 6, both evaluated."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpointer(folder, keep_best=1, best_metric="accuracy") as checkpointer:
        checkpointer.save(4, make_state(1, width=64), META, metrics={"accuracy": 0.5})
        checkpointer.save(6, make_state(0, width=64), META, metrics={"accuracy": 0.7})
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def outcome(folder: pathlib.Path) -> str:
    """same, other, or refused: with one line that names the step and the whole one."""
    state = make_state(0, width=64)
    try:
        with Checkpointer(folder) as checkpointer:
            restored, meta = checkpointer.restore(6, abstract(state))
    except CheckpointError as error:
        text = str(error)
        assert exit_code(error) == 4 and "\n" not in text
        assert (
            f"{folder / '6'}" in text
            and f"the checkpoint of step 4 is whole: remove {folder / '6'} to go on" in text
        )
        assert f"checkpoint.start_from={folder.parent}@4" in text
        return "refused"
    try:
        assert_same_bits(restored, state)
    except AssertionError:
        return "other"
    return "same" if meta == META else "other"


@pytest.mark.slow
def test_no_damage_to_any_file_gives_other_values(folder, capfd):
    found = [(outcome(folder), name, path.name) for name, path in damaged_files(folder / "6")]
    counts = collections.Counter(kind for kind, *_ in found)
    assert not [case for case in found if case[0] == "other"]
    assert counts.total() > 240 and counts["refused"] > 90, counts
    assert "Traceback" not in capfd.readouterr().err


def flip(path: pathlib.Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0b100
    path.write_bytes(bytes(data))


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max(
        (path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"),
        key=lambda p: p.stat().st_size,
    )


@pytest.mark.parametrize("item", ["params", "rest"])
def test_a_flipped_bit_of_an_array_is_found(folder, item, capfd):
    flip(largest(folder / "6" / item))
    assert outcome(folder) == "refused"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "item",
    [
        "meta/metadata",
        "params/_METADATA",
        "rest/_METADATA",
        "_CHECKPOINT_METADATA",
        "params/manifest.ocdbt",
    ],
)
@pytest.mark.parametrize("data", [b"", b"\x8c\x00", b"{}", b"[1"])
def test_an_unreadable_description_is_one_line(folder, item, data):
    (folder / "6" / item).write_bytes(data)
    assert outcome(folder) != "other"


def test_parameters_alone_are_compared_too(folder):
    wanted = abstract(make_state(0, width=64)).params
    flip(largest(folder / "6" / "rest"))
    with Checkpointer(folder) as checkpointer:
        checkpointer.restore_params(6, wanted)
    flip(largest(folder / "6" / "params"))
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="6/params .*step 4 is whole"),
    ):
        checkpointer.restore_params(6, wanted)


def test_of_several_processes_none_reads_other_checkpoints_alone(folder, monkeypatch):
    """Perhaps only this one has met the damage: the others would not take part."""
    monkeypatch.setattr("rlhf_jax.io.stored.count", lambda: 2)
    monkeypatch.delattr("rlhf_jax.io.stored.StoredStep.verify")
    flip(largest(folder / "6" / "params"))
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="checkpoints of steps 4: remove .*6 to go on from st"),
    ):
        checkpointer.restore_params(6, abstract(make_state(0, width=64)).params)


def test_a_checkpoint_is_called_whole_only_when_all_of_it_is(folder):
    (folder / "6" / "meta" / "metadata").write_text("{")
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="step 4 is whole"),
    ):
        checkpointer.read_meta()
    flip(largest(folder / "4" / "rest"))
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="no other checkpoint is whole"),
    ):
        checkpointer.read_meta()


def test_when_no_other_is_whole(folder):
    for step in ("4", "6"):
        flip(largest(folder / step / "params"))
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="no other checkpoint is whole: start again"),
    ):
        checkpointer.restore(6, abstract(make_state(0, width=64)))


@pytest.mark.parametrize("text", ['{"accuracy": 0.1}', "", "{"])
def test_a_changed_evaluation_does_not_choose_another_checkpoint(folder, text):
    (folder / "6" / "metrics" / "metrics").write_text(text)
    with Checkpointer(folder, best_metric="accuracy") as checkpointer:
        with pytest.raises(
            CheckpointError, match="6/metrics/metrics (is damaged|cannot be read)"
        ) as error:
            checkpointer.best_step()
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_jax.io.checkpoint.seal", lambda meta: meta.run)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(6, make_state(0, width=64), META)
    monkeypatch.undo()
    with Checkpointer(tmp_path) as checkpointer:
        state, meta = checkpointer.restore(6, abstract(make_state(0, width=64)))
    assert meta == META
    assert_same_bits(state, make_state(0, width=64))


def test_parts_that_do_not_fit_are_left_out(folder):
    wide = make_state(0, width=64)
    wide = wide._replace(aux={"kl_coef": jnp.zeros(3)})
    with Checkpointer(folder) as checkpointer:
        found = checkpointer.restore_parts(6, abstract(wide))
    assert (
        set(found.unfit) == {"aux"}
        and "aux/kl_coef has shape () in the checkpoint, but (3,)" in found.unfit["aux"]
    )
    assert set(found.fields) == {"params", "opt_state", "key", "step", "skipped"}
    assert_same_bits(found.fields["opt_state"], make_state(0, width=64).opt_state)
    flip(largest(folder / "6" / "rest"))
    with (
        Checkpointer(folder) as checkpointer,
        pytest.raises(CheckpointError, match="6/rest .*step 4 is whole"),
    ):
        checkpointer.restore_parts(6, abstract(wide))


def trees() -> dict[str, Any]:
    key = jax.random.key(3)
    words = jax.random.normal(key, (8, 6))
    return {
        "float32": words,
        "bfloat16": words.astype(jnp.bfloat16),
        "bool": words > 0,
        "int32": (words * 1000).astype(jnp.int32),
        "int8": (words * 10).astype(jnp.int8),
        "scalar": jnp.float32(0.5),
        "key": key,
    }


@pytest.mark.parametrize("name", list(trees()))
def test_every_bit_counts(name):
    tree = trees()[name]
    whole = params_fingerprint({"x": tree})
    host = np.asarray(jax.random.key_data(tree) if name == "key" else tree)
    seen = {whole}
    for place in (0, host.nbytes // 2, host.nbytes - 1):
        for bit in (0,) if name == "bool" else (0, 5, 7):
            data = bytearray(host.tobytes())
            data[place] ^= 1 << bit
            changed = jnp.asarray(np.frombuffer(bytes(data), host.dtype).reshape(host.shape))
            seen.add(
                params_fingerprint(
                    {"x": jax.random.wrap_key_data(changed) if name == "key" else changed}
                )
            )
    assert len(seen) == (4 if name == "bool" else 10)
    assert params_fingerprint({"y": tree}) not in seen


def test_changes_that_cancel_in_a_plain_sum_are_found():
    x = trees()["float32"]
    seen = {
        params_fingerprint(tree)
        for tree in (x, x.at[0, 0].mul(-1), x.at[:2, 0].mul(-1), x[::-1], x.at[0].set(x[1]), x * 0)
    }
    assert len(seen) == 6


def test_the_mesh_does_not_matter():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("fsdp", "tensor")))
    assert params_fingerprint({"x": sharded}) == params_fingerprint({"x": x})


def test_no_changed_letter_of_a_sealed_meta_goes_unnoticed():
    import json

    sealed = Meta(
        run=META, fingerprints={"params": "v2:ab"}, layouts={"params": "cd"}, metrics={"m": 0.5}
    )
    text = json.dumps(seal(sealed))
    assert unseal(json.loads(text)) == sealed
    for place in range(len(text)):
        for bit in (1, 4, 32):
            changed = text[:place] + chr(ord(text[place]) ^ bit) + text[place + 1 :]
            try:
                found = json.loads(changed)
                assert found == json.loads(text) or unseal(found) is None, changed
            except (json.JSONDecodeError, DamagedError):
                continue


FULL = """
import sys
import jax
from typing import NamedTuple
from rlhf_jax.io import Checkpointer, CheckpointError

class State(NamedTuple):
    params: dict
    key: jax.Array

def state(seed):
    draw = lambda n: jax.random.normal(jax.random.key(n), (300_000,))
    return State({"w": draw(seed), "v": draw(seed + 100)}, jax.random.key(seed))

try:
    with Checkpointer(sys.argv[1]) as checkpointer:
        for step in range(1, 9):
            checkpointer.save(step, state(step), {"step": step})
            checkpointer.wait()
except CheckpointError as error:
    print(error)
with Checkpointer(sys.argv[1]) as checkpointer:
    restored, meta = checkpointer.restore(None, jax.eval_shape(lambda: state(1)))
    wanted = state(meta["step"])
    assert all((restored.params[name] == wanted.params[name]).all() for name in ("w", "v"))
    print(checkpointer.all_steps())
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_saving(small_disk):
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(small_disk / "ck")],
        capture_output=True,
        text=True,
        env=environment,
    )
    error, steps = done.stdout.splitlines()
    assert error.startswith(
        f"{small_disk / 'ck' / '3'} could not be saved: No space left on device (1.7 MB free); "
    )
    assert (
        "the checkpoint of step 2 is whole: mend the cause and start the same command again"
        in error
    )
    assert steps == "[1, 2]" and done.stderr == ""
    assert sorted(os.listdir(small_disk / "ck")) == ["1", "2"]


def test_a_save_that_fails_in_the_background_is_noticed_at_the_next_step(tmp_path, monkeypatch):
    from orbax.checkpoint import checkpoint_manager

    state, finalize = make_state(0, width=64), checkpoint_manager.CheckpointManager._finalize

    def fail(self, step, *args):
        if step != 2:
            return finalize(self, step, *args)
        try:
            self._wait_for_checkpointers()
            raise OSError(28, "No space left on device")
        finally:
            self._save_progress_tracker.set(False)

    monkeypatch.setattr(checkpoint_manager.CheckpointManager, "_finalize", fail)
    with Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(1, state, {})
        checkpointer.wait()
        checkpointer.check()
        checkpointer.save(2, state, {})
        with pytest.raises(
            CheckpointError, match=r"ck/2 could not be saved: No space left .*step 1 is whole"
        ):
            for _ in range(1000):
                checkpointer.check()
                jax.block_until_ready(jnp.ones(1000).sum())
        checkpointer.check()


def test_a_failed_save_does_not_replace_the_error_that_ends_a_run(tmp_path, monkeypatch, caplog):
    from orbax.checkpoint import checkpoint_manager

    def fail(self, step, *args):
        self._wait_for_checkpointers()
        self._save_progress_tracker.set(False)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_manager.CheckpointManager, "_finalize", fail)
    with pytest.raises(ZeroDivisionError), Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(1, make_state(0, width=64), {})
        raise ZeroDivisionError
    assert "ck/1 could not be saved: No space left on device" in caplog.text


def test_a_damaged_checkpoint_leads_to_the_exported_model_too(folder):
    (folder.parent / "export").mkdir()
    (folder.parent / "export" / "config.json").write_text("{}")
    (folder / "6" / "meta" / "metadata").write_text("{")
    with Checkpointer(folder) as checkpointer, pytest.raises(CheckpointError) as error:
        checkpointer.read_meta()
    assert str(error.value).endswith(
        f"start from it in a new run_dir with checkpoint.start_from={folder.parent}@4 "
        f"(evaluate and export take --step 4); the exported model is in {folder.parent / 'export'}"
    )
