"""One torch thread, images, spaces, and a GPU that is not there."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any

from dastune.ops.table import OPS
from dastune.policy.space import SearchSpace, SpaceOp


@pytest.fixture
def images() -> torch.Tensor:
    """Twelve smooth random images (12, 3, 16, 20), float32 in [0, 1]."""
    coarse = torch.rand(12, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (16, 20), mode="bilinear")


@pytest.fixture
def space_of() -> Callable[..., SearchSpace]:
    return lambda *names: SearchSpace(
        tuple(SpaceOp(name, OPS[name].low, OPS[name].high, OPS[name].signed) for name in names)
    )


class _PretendCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a FakeTensorMode: real tensors on the CPU, and on "cuda" fake ones, which raise when they are read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_cuda = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if to_cuda or tree_any(lambda leaf: isinstance(leaf, FakeTensor), (args, kwargs)):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


@pytest.fixture
def pretend_cuda() -> Iterator[torch.device]:
    """A device "cuda" whose tensors have no values, so that code that would wait for a GPU raises."""
    with FakeTensorMode(allow_non_fake_inputs=True), _PretendCuda():  # type: ignore[no-untyped-call]
        yield torch.device("cuda")
