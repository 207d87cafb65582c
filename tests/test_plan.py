"""What a plan says of a planted shift."""

import pytest

from dastune.config import load_study
from dastune.plan import plan_text


@pytest.mark.parametrize(
    ("shift", "line"),
    [
        ("[rotate: {degrees: 40}]", "shift           rotate 0 to 40 degrees of either sign; "),
        (
            "[invert: {probability: 0.5}, posterize]",
            "shift           invert with probability 0.5, then posterize 8 to 4 bits of 8; ",
        ),
    ],
)
def test_a_shift_is_one_line(shift: str, line: str) -> None:
    study = load_study("digits_noise", overrides=[f"data.shift={shift}"])
    [told] = [text for text in plan_text(study).splitlines() if text.startswith("shift")]
    assert told == line + "for validation and test images only"


def test_nothing_is_said_of_no_shift() -> None:
    assert not any(line.startswith("shift") for line in plan_text(load_study("digits_noise")).splitlines())
