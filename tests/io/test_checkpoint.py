"""Checkpoints: round trip, retention, atomicity, other meshes, errors."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.io import Checkpointer, CheckpointError
from rlhf_jax.sharding import make_mesh
from rlhf_jax.training import OptimizerConfig, TrainState, make_optimizer, make_train_state

TX = make_optimizer(OptimizerConfig(weight_decay=0.1, schedule="constant"))


def make_state(seed: int = 0, width: int = 8, tx: optax.GradientTransformation = TX) -> TrainState:
    key = jax.random.key(seed)
    params = {
        "embed": {"embedding": jax.random.normal(key, (16, width))},
        "final_norm": {"scale": jnp.ones(width)},
    }
    params["half"] = {"kernel": jax.random.normal(key, (3,)).astype(jnp.bfloat16)}
    state = make_train_state(
        params, tx, jax.random.fold_in(key, 1), aux={"kl_coef": jnp.float32(0.1)}
    )
    updates, opt_state = tx.update(jax.tree.map(lambda x: x * 0.1, params), state.opt_state, params)
    return state._replace(
        params=optax.apply_updates(params, updates), opt_state=opt_state, step=jnp.int32(1)
    )


def abstract(state: TrainState, sharding: Any = None) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same_bits(left: Any, right: Any) -> None:
    def words(x: jax.Array) -> np.ndarray:
        return np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )

    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert words(a).tobytes() == words(b).tobytes()


@pytest.fixture(scope="module")
def state() -> TrainState:
    return make_state()


def test_round_trip_is_bit_exact(tmp_path, state):
    meta = {"epoch": 1, "fingerprint": "abc", "nested": {"list": [1, 2.5, None]}}
    with Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(7, state, meta)
    with Checkpointer(tmp_path / "ck") as checkpointer:
        assert checkpointer.latest_step() == 7
        restored, found = checkpointer.restore(None, abstract(state))
        assert checkpointer.read_meta() == found == meta
    assert isinstance(restored, TrainState)
    assert_same_bits(restored, state)
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)


def test_no_chatter(tmp_path, state, caplog, capfd):
    with Checkpointer(tmp_path / "ck", keep_best=1, best_metric="m") as checkpointer:
        checkpointer.save(1, state, {})
        checkpointer.save(2, state, {}, metrics={"m": 1.0})
        checkpointer.restore(2, abstract(state))
    assert [
        record
        for record in caplog.records
        if record.levelname != "DEBUG" and "jax" not in record.name
    ] == []
    assert capfd.readouterr() == ("", "")


def test_saving_is_safe_with_donated_buffers(tmp_path):
    class Big(NamedTuple):
        params: dict[str, jax.Array]
        key: jax.Array

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Big) -> Big:
        return Big(jax.tree.map(lambda x: x + 1, state.params), jax.random.fold_in(state.key, 0))

    state = Big({"w": jnp.zeros((1 << 22,)), "v": jnp.zeros((1 << 20,))}, jax.random.key(0))
    keys = {}
    with Checkpointer(tmp_path / "ck", keep_last=10) as checkpointer:
        for number in range(4):
            keys[number] = np.asarray(jax.random.key_data(state.key))
            checkpointer.save(number, state, {})
            state = step(step(state))
        for number in range(4):
            restored, _ = checkpointer.restore(number, jax.eval_shape(lambda: state))
            assert np.unique(restored.params["w"]).tolist() == [2.0 * number]
            assert np.unique(restored.params["v"]).tolist() == [2.0 * number]
            assert np.array_equal(jax.random.key_data(restored.key), keys[number])


def test_keeps_newest_and_best(tmp_path, state):
    scores = {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.3, 5: None, 6: 0.2}
    with Checkpointer(tmp_path / "ck", keep_last=2, keep_best=1, best_metric="acc") as checkpointer:
        for step, score in scores.items():
            checkpointer.save(
                step,
                state,
                {"step": step},
                metrics=None if score is None else {"acc": score, "loss": 1.0},
            )
        checkpointer.wait()
        assert checkpointer.all_steps() == [2, 5, 6]
        assert checkpointer.best_step() == 2
        assert checkpointer.read_meta(2) == {"step": 2}
    with Checkpointer(tmp_path / "ck", best_metric="acc", best_mode="min") as checkpointer:
        assert checkpointer.best_step() == 6


def test_another_best_metric_on_resume(tmp_path, state):
    with Checkpointer(tmp_path / "ck", keep_last=1, keep_best=1, best_metric="acc") as checkpointer:
        checkpointer.save(1, state, {}, metrics={"acc": 0.9})
    with Checkpointer(
        tmp_path / "ck", keep_last=1, keep_best=1, best_metric="loss", best_mode="min"
    ) as checkpointer:
        assert checkpointer.best_step() is None
        checkpointer.save(2, state, {}, metrics={"acc": 0.1, "loss": 2.0})
        checkpointer.save(3, state, {}, metrics={"acc": 0.1, "loss": 3.0})
        assert checkpointer.all_steps() == [2, 3]
        assert checkpointer.best_step() == 2


def test_a_saved_step_is_left_alone(tmp_path, state):
    with Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(1, state, {"first": True})
        checkpointer.save(1, state, {"first": False})
        checkpointer.wait()
        assert checkpointer.read_meta(1) == {"first": True}


def test_params_alone_with_cast_and_another_mesh(tmp_path, state):
    mesh = make_mesh({"fsdp": 8})
    sharded = jax.device_put(state, NamedSharding(mesh, P()))
    rows = NamedSharding(mesh, P("fsdp", None))
    embed = {"embedding": jax.device_put(state.params["embed"]["embedding"], rows)}
    sharded = sharded._replace(params={**sharded.params, "embed": embed})
    with Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(1, sharded, {})
        single, _ = checkpointer.restore(1, abstract(state))
        assert_same_bits(single, state)
        again, _ = checkpointer.restore(1, abstract(sharded))
        assert again.params["embed"]["embedding"].sharding == rows
        assert_same_bits(again, state)
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), state.params
        )
        params = checkpointer.restore_params(None, wanted)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        np.testing.assert_array_equal(
            params["half"]["kernel"], state.params["half"]["kernel"].astype(jnp.float32)
        )


def test_unfinished_checkpoints_are_removed(tmp_path, state, caplog):
    with Checkpointer(tmp_path / "ck") as checkpointer:
        checkpointer.save(1, state, {})
    stale = tmp_path / "ck" / "2.orbax-checkpoint-tmp"
    (stale / "params").mkdir(parents=True)
    with Checkpointer(tmp_path / "ck") as checkpointer:
        assert checkpointer.latest_step() == 1
        assert checkpointer.read_meta() == {}
        checkpointer.restore(1, abstract(state))
        assert (stale / "params").is_dir(), "a reader leaves what another process may be saving"
        checkpointer.save(2, state, {})
    assert not stale.exists()
    assert "2.orbax-checkpoint-tmp" in caplog.text
    assert Checkpointer(tmp_path / "ck").all_steps() == [1, 2]


def test_reading_creates_nothing(tmp_path):
    checkpointer = Checkpointer(tmp_path / "absent", best_metric="acc")
    assert checkpointer.latest_step() is None
    assert checkpointer.best_step() is None
    checkpointer.wait()
    checkpointer.close()
    assert not (tmp_path / "absent").exists()


def change(state: TrainState, **changes: Any) -> TrainState:
    return abstract(state)._replace(**changes)


def test_errors_are_one_line(tmp_path, state):
    (tmp_path / "empty").mkdir()
    with Checkpointer(tmp_path / "ck") as saver:
        saver.save(3, state, {})
    wide = abstract(make_state(width=9))
    sgd = abstract(make_state(tx=make_optimizer(OptimizerConfig(name="sgd", schedule="constant"))))
    fewer = {name: leaf for name, leaf in abstract(state).params.items() if name != "half"}
    double = abstract(state).params | {
        "final_norm": {"scale": jax.ShapeDtypeStruct((8,), jnp.float16, sharding=None)}
    }
    cases = [
        ("absent", None, abstract(state), r"absent: no such checkpoint folder$"),
        ("empty", None, abstract(state), r"empty: holds no complete checkpoint$"),
        ("ck", 4, abstract(state), r"ck: no checkpoint of step 4; there are 3$"),
        (
            "ck",
            3,
            wide,
            r"3: params/embed/embedding has shape \(16, 8\) in the checkpoint, but \(16, 9\) is "
            r"wanted$",
        ),
        (
            "ck",
            3,
            sgd,
            r"3: opt_state/.* is not in the checkpoint: it was saved from another model or "
            r"optimizer$",
        ),
        (
            "ck",
            3,
            change(state, params=fewer),
            r"3: params/half/kernel is in the checkpoint but not wanted: ",
        ),
        (
            "ck",
            3,
            change(state, params=double),
            r"3: params/final_norm/scale is float32 in the checkpoint, but float16 is wanted$",
        ),
    ]
    for folder, step, wanted, message in cases:
        with (
            Checkpointer(tmp_path / folder) as checkpointer,
            pytest.raises(CheckpointError, match=message) as error,
        ):
            checkpointer.restore(step, wanted)
        assert "\n" not in str(error.value)
    with (
        Checkpointer(tmp_path / "ck") as checkpointer,
        pytest.raises(CheckpointError, match="no checkpoint.best_metric"),
    ):
        checkpointer.best_step()
    with pytest.raises(ValueError, match="keep_best=1 needs best_metric"):
        Checkpointer(tmp_path, keep_best=1)
    with pytest.raises(ValueError, match="keep_last=0 must be at least 1"):
        Checkpointer(tmp_path, keep_last=0)


SAVER = """
    import sys
    import jax, jax.numpy as jnp
    from typing import NamedTuple
    from rlhf_jax.io import Checkpointer

    class State(NamedTuple):
        params: dict
        key: jax.Array

    checkpointer = Checkpointer(sys.argv[1])
    for step in range(1, 1000):
        state = State({"w": jnp.full((1 << 21,), step, jnp.float32)}, jax.random.key(step))
        checkpointer.save(step, state, {"step": step})
        print(step, flush=True)
"""


def test_a_killed_save_leaves_the_last_complete_step(tmp_path):
    class State(NamedTuple):
        params: dict[str, Any]
        key: Any

    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(SAVER), str(tmp_path / "ck")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 4:
                break
        process.send_signal(signal.SIGKILL)
    with Checkpointer(tmp_path / "ck") as checkpointer:
        step = checkpointer.latest_step()
        assert step is not None and step >= 3
        wanted = State(
            {"w": jax.ShapeDtypeStruct((1 << 21,), jnp.float32)},
            jax.eval_shape(lambda: jax.random.key(0)),
        )
        state, meta = checkpointer.restore(step, wanted)
        assert meta == {"step": step}
        assert np.unique(state.params["w"]).tolist() == [float(step)]
        assert_same_bits(state.key, jax.random.key(step))
        checkpointer.save(step + 1, state, {"step": step + 1})
    assert list((tmp_path / "ck").glob("*tmp*")) == []
