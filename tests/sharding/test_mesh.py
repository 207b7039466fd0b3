"""The mesh: sizes, the rest axis, errors."""

import jax
import pytest

from rlhf_jax.sharding import MeshConfig, make_mesh


def test_rest_axis_takes_all_devices():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert dict(make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }


def test_mapping_leaves_out_axes_of_size_one():
    mesh = make_mesh({"tensor": 2}, devices=jax.devices()[:2])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 2}
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_smaller_mesh_says_so(caplog):
    mesh = make_mesh({"data": 2})
    assert mesh.size == 2
    assert "uses 2 of 8 devices" in caplog.text


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"data": 0}, "mesh.data=0"),
        ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
        (
            {"replicate": ("embed", "(")},
            r"^mesh.replicate: '\(' is not a regular expression: missing \), unterminated",
        ),
    ],
)
def test_bad_config(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**kwargs)


@pytest.mark.parametrize("sizes", [{"data": 16}, {"data": 3, "fsdp": -1}])
def test_does_not_fit(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        make_mesh(sizes)


def test_unknown_axis():
    with pytest.raises(ValueError, match="'tp' is unknown"):
        make_mesh({"tp": 2})
