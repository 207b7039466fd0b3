"""`training.num_microbatches=auto` asks the compiled update."""

import dataclasses
import logging

import pytest

from rlhf_jax.runs import train
from rlhf_jax.runs.plan.microbatches import (
    ROOM,
    expected_to_fit,
    microbatch_counts,
    settled,
    update_peak,
    with_microbatches,
)
from rlhf_jax.sharding import make_mesh
from rlhf_jax.target import Target, compiling_for


def wide(config):
    """Rows so long that activations count beside the parameters."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, max_length=512),
        training=dataclasses.replace(
            config.training, batch_size=16, num_microbatches="auto", pack=False
        ),
    )


def with_memory(config, mesh, size):
    with compiling_for(Target("cpu", size)):
        return settled(config, mesh).training.num_microbatches


def test_the_fewest_that_fit(tiny_config):
    config = wide(tiny_config("sft"))
    mesh = make_mesh(config.mesh)
    counts = microbatch_counts(config, mesh)
    assert counts == [count for count in (1, 2, 4, 8, 16) if 16 // count % mesh.shape["fsdp"] == 0]
    first, second = (update_peak(with_microbatches(config, count), mesh) for count in counts[:2])
    assert second < first
    assert with_memory(config, mesh, int(first / ROOM) + 1) == 1
    assert with_memory(config, mesh, int(second / ROOM) + 1) == counts[1]
    with pytest.raises(ValueError, match=r"num_microbatches=auto: a device holds .* has 1\.0 MB"):
        with_memory(config, mesh, 10**6)


def test_a_search_takes_what_is_expected_to_fit(tiny_config):
    config = wide(tiny_config("sft"))
    mesh = make_mesh(config.mesh)
    assert expected_to_fit(config, mesh, 1e12).training.num_microbatches == 1
    last = microbatch_counts(config, mesh)[-1]
    assert expected_to_fit(config, mesh, 1.0).training.num_microbatches == last


def test_a_number_stays(tiny_config):
    config = tiny_config("sft")
    assert settled(config, make_mesh(config.mesh)) is config


def test_a_given_model_is_refused(tiny_config):
    config = wide(tiny_config("sft"))
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, given=True, config=None, path=None)
    )
    with pytest.raises(ValueError, match="give a number"):
        settled(config, make_mesh(config.mesh))


@pytest.mark.slow
def test_a_run_says_what_it_chose_and_goes_on(tiny_config, tmp_path, caplog):
    config = tiny_config("sft")
    config = dataclasses.replace(
        config,
        run_dir=str(tmp_path / "run"),
        training=dataclasses.replace(config.training, num_microbatches="auto", max_steps=2),
    )
    with caplog.at_level(logging.INFO):
        train(config, progress=False)
    assert "num_microbatches=auto: 1" in caplog.text
    assert "num_microbatches: auto" in (tmp_path / "run" / "config.yaml").read_text()
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=3))
    assert train(longer, progress=False).steps == 3
