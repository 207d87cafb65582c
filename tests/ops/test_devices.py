"""Ops on devices that are not there: nothing waits for a value, mixes devices, or needs more than shapes."""

import itertools
from typing import get_args

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dastune.ops import geometric
from dastune.ops.spaces import Geometry
from dastune.ops.table import OPS, Op

ALL = tuple(OPS.values())
GEOMETRIES = [
    Geometry(interpolation=interpolation, shear_about=about, whole_pixels=whole_pixels, fill=fill)
    for interpolation, about, whole_pixels, fill in itertools.product(
        get_args(Geometry.__annotations__["interpolation"]),
        get_args(Geometry.__annotations__["shear_about"]),
        (False, True),
        ((0.0,), (0.5,), (0.1, 0.5, 1.0)),
    )
]
each_op = pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)


@pytest.mark.parametrize("gradients", [False, True])
@each_op
def test_nothing_waits_for_a_gpu(op: Op, gradients: bool) -> None:
    # Fake CUDA tensors have no values: a read of one raises, and so does a mix of devices.
    with FakeTensorMode():
        images = torch.empty(4, 3, 9, 12, device="cuda", requires_grad=gradients)
        arguments = torch.empty(4, device="cuda", requires_grad=gradients)
        changed = op.function(images, arguments, torch.empty(4, dtype=torch.int64, device="cuda"))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.device.type == "cuda"


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("op", [op for op in ALL if op.geometric], ids=lambda op: op.name)
def test_no_geometry_waits_for_a_gpu(op: Op, gradients: bool) -> None:
    for geometry in GEOMETRIES:
        with FakeTensorMode():
            images = torch.empty(4, 3, 9, 12, device="cuda", requires_grad=gradients)
            arguments = torch.empty(4, device="cuda", requires_grad=gradients)
            changed = geometric.move(op.name, images, arguments, geometry)
        assert changed.shape == images.shape
        assert changed.device.type == "cuda"


@each_op
def test_a_whole_step_on_the_meta_device(op: Op) -> None:
    images = torch.empty(4, 3, 9, 12, device="meta", requires_grad=True)
    arguments = torch.empty(4, device="meta", requires_grad=True)
    changed = op.function(images, arguments, torch.empty(4, dtype=torch.int64, device="meta"))
    assert changed.device.type == "meta"
    gradients = torch.autograd.grad(changed.sum(), (images, arguments), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].shape == images.shape
    assert (gradients[1] is not None) == bool(op.argument)


@pytest.mark.parametrize("op", [op for op in ALL if op.geometric], ids=lambda op: op.name)
def test_a_whole_step_of_each_geometry_on_the_meta_device(op: Op) -> None:
    for geometry in GEOMETRIES:
        images = torch.empty(4, 3, 9, 12, device="meta", requires_grad=True)
        arguments = torch.empty(4, device="meta", requires_grad=True)
        changed = geometric.move(op.name, images, arguments, geometry)
        gradients = torch.autograd.grad(changed.sum(), (images, arguments))
        assert [gradient.shape for gradient in gradients] == [images.shape, arguments.shape]
