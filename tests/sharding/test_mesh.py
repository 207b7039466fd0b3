"""The mesh: sizes, the rest axis, slices, another mesh in one's order, errors."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from rlhf_jax.sharding import MeshConfig, make_mesh, mesh_over


@dataclasses.dataclass(frozen=True)
class Chip:
    """Stands in for a device of a TPU slice."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def slices(count, sides):
    """Chips of slices of these sides, in the order of `jax.devices()`."""
    places = [(*reversed(at), 0) for at in np.ndindex(*sides)]
    return [
        Chip(number * len(places) + place, coords, number)
        for number in range(count)
        for place, coords in enumerate(places)
    ]


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


def factors(number):
    """All ways to write a number as a product of three."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return [each for each in itertools.product(divisors, repeat=3) if np.prod(each) == number]


@pytest.mark.parametrize("sides", [(8, 8), (4, 8), (4, 4)])
def test_every_factorisation_gives_a_mesh_of_a_slice(sides):
    chips = slices(1, sides)
    for shape in factors(len(chips)):
        mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), shape, strict=True)), devices=chips)
        assert mesh.devices.shape == shape
        assert set(mesh.devices.flat) == set(chips)


def test_neighbours_on_an_axis_are_neighbours_in_the_slice():
    mesh = make_mesh({"data": 4, "fsdp": 16}, devices=slices(1, (8, 8)))
    for group in mesh.devices.reshape(4, 16):
        (xs, ys, _) = (set(places) for places in zip(*(chip.coords for chip in group), strict=True))
        assert sorted((len(xs), len(ys))) == [2, 8]


def test_only_data_goes_from_slice_to_slice():
    chips = slices(2, (4, 4))
    for shape in factors(32):
        sizes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
        if shape[0] % 2:
            with pytest.raises(ValueError, match=r"^mesh.data=1 must be a multiple of 2, the numb"):
                make_mesh(sizes, devices=chips)
            continue
        mesh = make_mesh(sizes, devices=chips)
        assert set(mesh.devices.flat) == set(chips)
        for group in mesh.devices:
            assert len({chip.slice_index for chip in group.flat}) == 1
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_a_part_of_one_slice_and_a_whole_one_is_no_mesh():
    with pytest.raises(ValueError, match=r"takes 16, 8 devices of 2 slices"):
        make_mesh({"data": 24}, devices=slices(2, (4, 4)))


def test_chips_that_are_no_box_are_no_mesh():
    with pytest.raises(ValueError, match=r"3 chips in a row are no box of the slice"):
        make_mesh({"data": 3}, devices=slices(1, (2, 2)))


def test_hosts_of_gpus_are_not_kept_apart():
    gpus = [
        dataclasses.replace(chip, platform="gpu", device_kind="NVIDIA H100")
        for chip in slices(2, (2, 4))
    ]
    mesh = make_mesh({"fsdp": 16}, devices=gpus)
    assert [gpu.id for gpu in mesh.devices.flat] == list(range(16))


def test_a_mesh_over_another_keeps_its_order():
    trained = make_mesh({"fsdp": 64}, devices=slices(1, (8, 8)))
    mesh = mesh_over(trained, {"data": 8, "tensor": 8})
    assert mesh.devices.shape == (8, 1, 8)
    assert list(mesh.devices.flat) == list(trained.devices.flat)
    assert mesh_over(trained, MeshConfig(tensor=4)).devices.shape == (1, 16, 4)


def test_a_smaller_mesh_over_another_says_so(caplog):
    mesh = mesh_over(make_mesh({"fsdp": 8}), {"tensor": 2})
    assert mesh.size == 2
    assert "uses 2 of 8 devices" in caplog.text
