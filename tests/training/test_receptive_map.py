"""What is written of a receptive field is what is read again."""

import numpy as np
import pytest

from dastune.training.receptive_map import ReceptiveField, receptive_field_from_text


def field(map_HW: np.ndarray) -> ReceptiveField:
    return ReceptiveField(map_HW.astype(np.float32), 0.25, 0.5, map_HW.shape, 32, "wide_resnet-10-1", 1)


def test_a_field_that_does_not_reach_the_border_is_read_again() -> None:
    map_HW = np.zeros((5, 6))
    map_HW[2, 3] = 1.0
    read = receptive_field_from_text(field(map_HW).text())
    np.testing.assert_array_equal(read.map_HW, map_HW)
    assert (read.half, read.tenth, read.images, read.frames) == (0.25, 0.5, 32, 1)


@pytest.mark.parametrize("text", ["{}", "[]", "7", "", field(np.zeros((4, 4))).text()])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        receptive_field_from_text(text)
