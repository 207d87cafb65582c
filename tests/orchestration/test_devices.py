"""How many searches fit where, and how a client connects."""

import pytest

from dastune.config.study import Resources
from dastune.errors import UserError
from dastune.orchestration.cluster import CONNECTION_TRIES, Devices, _connect
from dastune.orchestration.nodes import Node


@pytest.mark.parametrize(
    ("nodes", "resources", "slots"),
    [
        (((2.0, 0.0),), {"cpus": 1}, 2),
        (((2.0, 0.0), (2.0, 0.0)), {"cpus": 3}, 0),
        (((4.0, 1.0),) * 4, {"cpus": 1, "gpus": 0.75}, 4),
        (((4.0, 2.0), (4.0, 1.0)), {"cpus": 1, "gpus": 0.5}, 6),
        (((1.0, 4.0),), {"cpus": 1, "gpus": 0.5}, 1),
        (((8.0, 0.0), (8.0, 4.0)), {"cpus": 2, "gpus": 1}, 4),
    ],
)
def test_a_search_fits_on_one_node(
    nodes: tuple[tuple[float, float], ...], resources: dict[str, float], slots: int
) -> None:
    offered = tuple(Node(str(index), *node) for index, node in enumerate(nodes))
    assert Devices(offered).slots(Resources(**resources)) == slots


class FaultyRay:
    """A Ray whose client fails to connect for so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.connected = False

    def init(self, address: str, **options: object) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise ConnectionError("the server has gone")
        self.connected = True


def test_a_client_tries_to_connect_again() -> None:
    ray = FaultyRay(CONNECTION_TRIES - 1)
    _connect(ray, "ray://head:10001")
    assert ray.connected


def test_a_client_that_never_connects_is_told() -> None:
    with pytest.raises(UserError, match=r"ray://head:10001: no Ray client server answers there \(the server has gone"):
        _connect(FaultyRay(CONNECTION_TRIES), "ray://head:10001")
