"""How many searches fit where."""

import pytest

from dastune.config.study import Resources
from dastune.orchestration.tuner import Devices


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
    assert Devices(nodes).slots(Resources(**resources)) == slots
