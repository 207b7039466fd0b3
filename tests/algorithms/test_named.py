"""Losses and advantages of a user's own, named by file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.algorithms import dpo, grpo
from rlhf_jax.algorithms.dpo import DPOConfig, dpo_loss
from rlhf_jax.algorithms.grpo import GRPOConfig
from rlhf_jax.algorithms.named import own_advantages
from rlhf_jax.algorithms.pair_losses import find_loss
from rlhf_jax.algorithms.registry import find_algorithm, try_functions
from rlhf_jax.config import make_config
from rlhf_jax.ops import group_advantages
from rlhf_jax.runs import train
from tests.contract.fakes import make_batch, make_model, make_params

SOURCE = """
import jax
import jax.numpy as jnp


def logistic(pair):
    return -jax.nn.log_sigmoid(pair.beta * (pair.chosen - pair.rejected))


def per_token(pair):
    return (pair.chosen / pair.lengths[:, 0] - pair.rejected / pair.lengths[:, 1]) ** 2


def branches(pair):
    return pair.chosen if pair.smoothing > 0.1 else pair.rejected


def centred(rewards):
    return rewards - jnp.nanmean(rewards, axis=1, keepdims=True)


def total(rewards):
    return rewards.sum()


def two(a, b):
    return a


def signs(rewards):
    return rewards > 0


number = 3


def two_prompts(rewards):
    return rewards * jnp.array([[1.0], [2.0]])


def stops(rewards):
    raise SystemExit(3)


def in_numpy(rewards):
    import numpy as np

    return np.asarray(rewards) - 1


def unlucky(rewards):
    raise RuntimeError("no luck")


def a_list(rewards):
    return [rewards]
"""

RUN = {
    "model": {"path": "a/model/that/is/not/there"},
    "data": {"path": "absent.jsonl"},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_loss_of_pairs(file):
    logps = jax.random.normal(jax.random.key(0), (4, 5))
    weights = jnp.full(5, 0.2)
    mine = dpo_loss(*logps, weights, loss_type=f"{file}:logistic")
    its = dpo_loss(*logps, weights, loss_type="sigmoid")
    np.testing.assert_allclose(mine[0], its[0], rtol=1e-6)
    both = dpo_loss(*logps, weights, loss_type=[f"{file}:logistic", "hinge"], loss_weights=[2, 1])
    hinge = dpo_loss(*logps, weights, loss_type="hinge")
    np.testing.assert_allclose(both[0], 2 * mine[0] + hinge[0], rtol=1e-6)
    lengths = jnp.full((5, 2), 4.0)
    squares = dpo_loss(*logps, weights, loss_type=f"{file}:per_token", lengths=lengths)
    ipo = jnp.mean(((logps[0] - logps[2] - logps[1] + logps[3]) / 4) ** 2)
    np.testing.assert_allclose(squares[0], ipo, rtol=1e-5)
    # Its options are numbers in Python, as they are for the losses of the library.
    assert DPOConfig(loss_type=f"{file}:branches", label_smoothing=0.2).label_smoothing == 0.2
    find_loss(f"{file}:branches")


def test_advantages(file):
    rewards = jnp.array([[1.0, 0.0, jnp.nan], [0.0, 0.0, 1.0]])
    found = own_advantages(f"{file}:centred", 3)(rewards)
    np.testing.assert_allclose(found, group_advantages(rewards, normalize_std=False), atol=1e-6)
    assert found[0, 2] == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("total", r"must return floats of shape \(2, 3\)"),
        ("signs", r"must return floats of shape \(2, 3\)"),
        ("two", r"cannot be called on shapes \(2, 3\): TypeError: .*missing 1 required"),
        ("two_prompts", r"cannot be called on shapes \(3, 3\): TypeError.* \(line 38\)"),
        ("stops", r"SystemExit \(line 42\): 3$"),
        ("in_numpy", r"TracerArrayConversionError \(line 48\): NumPy cannot .*: use jax.numpy"),
        ("unlucky", r"RuntimeError \(line 52\): no luck"),
        ("a_list", r"must return floats of shape \(2, 3\), not list"),
        ("nothing", "holds no function 'nothing'"),
        ("number", "holds no function 'number'"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_compiled(file, name, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        own_advantages(f"{file}:{name}", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["pairs", "prompts"])
def test_a_run_tries_them_before_it_reads_data(file, tmp_path, data):
    """Whatever file of one's own a configuration names, and however the data is read."""

    def algorithm(name):
        if data == "pairs":
            return {"name": "dpo", "loss_type": ["sigmoid", f"{file}:{name}"]}
        return {"name": "grpo", "group_size": 4, "advantages": f"{file}:{name}"}

    run = {"run_dir": str(tmp_path / "run")} | RUN
    if data == "prompts":
        run["rewards"] = [{"function": "exact_match"}]
    fine, key = {"pairs": ("logistic", "loss_type"), "prompts": ("centred", "advantages")}[data]
    try_functions(make_config({"algorithm": algorithm(fine)} | run).resolved_algorithm)
    for name in ("absent", "total"):
        with pytest.raises(ValueError, match=rf"^algorithm\.{key}=.*{name}") as caught:
            train({"algorithm": algorithm(name)} | run)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_looks_for_rewards_before_it_reads_data(file, tmp_path):
    tree = {"algorithm": {"name": "grpo"}, "run_dir": str(tmp_path / "run")} | RUN
    for name, problem in ((f"{file}:absent", "has no 'absent'"), ("no.py:f", "there is no file")):
        with pytest.raises(ValueError, match=problem):
            train(tree | {"rewards": [{"function": name}]})
    assert not (tmp_path / "run").exists()


def test_what_stands_in_place_of_another_option_refuses_it():
    with pytest.raises(ValueError, match="in place of baseline='leave_one_out'"):
        GRPOConfig(advantages="a.py:f", baseline="leave_one_out", normalize_std=False)
    with pytest.raises(ValueError, match="there is no file"):
        own_advantages("absent.py:f", 3)
    with pytest.raises(ValueError, match="names no function"):
        own_advantages("absent", 3)
    with pytest.raises(ValueError, match="label_smoothing=0.1 has no meaning"):
        DPOConfig(loss_type="hinge", label_smoothing=0.1)


def test_an_algorithm_takes_them(file):
    config = GRPOConfig(group_size=4, advantages=f"{file}:centred")
    own = grpo.make(config, make_model()).prepare(make_batch("prompts", 1), {})
    plain = GRPOConfig(group_size=4, normalize_std=False)
    its = grpo.make(plain, make_model()).prepare(make_batch("prompts", 1), {})
    np.testing.assert_allclose(own[0].advantages, its[0].advantages, atol=1e-6)
    assert float(jnp.abs(own[0].advantages).max()) > 0

    def gradients(loss_type):
        config = DPOConfig(loss_type=loss_type, reference="none")
        algorithm = dpo.make(config, make_model())
        batch = algorithm.weigh(make_batch("pairs", 1))

        def loss(params):
            return algorithm.loss({"policy": params}, batch, jax.random.key(0))[0]

        return jax.grad(loss)(make_params(0))

    logistic = gradients("sigmoid")
    own = gradients(f"{file}:logistic")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), own, logistic)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(own))
    with pytest.raises(ValueError, match="holds no function 'absent'"):
        dpo.make(DPOConfig(loss_type=f"{file}:absent"), make_model())


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(:", "its import fails: SyntaxError"),
        ("import nothing_of_that_name", r"its import fails: ModuleNotFoundError \(line 1\)"),
        ("from . import other", r"its import fails: ImportError \(line 1\)"),
        ("\nraise SystemExit(0)", r"its import fails: SystemExit \(line 2\): 0"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, source, problem):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ValueError, match=problem) as caught:
        own_advantages(f"{tmp_path / 'bad.py'}:f", 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=problem):
        find_algorithm(f"{tmp_path / 'bad.py'}:f")


def test_a_name_without_a_file_or_a_function_is_one_line():
    for name in (":f", "mine.py:", ".:f"):
        with pytest.raises(ValueError, match="names no function|its import fails"):
            own_advantages(name, 3)


def test_a_file_edited_while_a_run_goes_on_changes_nothing(file):
    algorithm = dpo.make(DPOConfig(loss_type=f"{file}:logistic", reference="none"), make_model())
    batch = algorithm.weigh(make_batch("pairs", 1))
    trees = {"policy": make_params(0)}
    before = algorithm.loss(trees, batch, jax.random.key(0))[0]
    file.write_text(SOURCE.replace("-jax.nn.log_sigmoid", "-100 * jax.nn.log_sigmoid"))
    assert algorithm.loss(trees, batch, jax.random.key(0))[0] == before
