"""Differences, intervals and p values as text. Differences are in percentage points, with a typographic minus."""

from dastune.report.intervals import Interval
from dastune.report.power import MOST_SEEDS

SMALLEST_P = 0.001


def points(share: float, digits: int = 1) -> str:
    """Return a difference of shares in points, with its sign; none where it rounds to 0."""
    return signed(100 * share, digits)


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign; none where it rounds to 0."""
    text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text if float(text[1:]) else text[1:]


def between(interval: Interval, digits: int = 1) -> str:
    """Return an interval of a difference of shares in points."""
    return f"{points(interval[0], digits)} to {points(interval[1], digits)}"


def p_text(p: float) -> str:
    """Return a p value, such as "0.032", "<0.001", "0.32" or "1"."""
    if p < SMALLEST_P:
        return f"<{SMALLEST_P}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}".replace("1.00", "1")


def seeds_text(seeds: int | None) -> str:
    """Return a number of seeds as `dastune.report.power.seeds_needed` gives it."""
    return f">{MOST_SEEDS}" if seeds is None else str(seeds)


def listed(names: list[str]) -> str:
    """Return names as a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
