"""TPE: what its points depend on, what it remembers, and that it finds what scores."""

import random
from collections.abc import Callable
from statistics import mean
from typing import Any

import optuna
import pytest

from dastune.search.tpe import BEST, MOST, NEWEST, TPE, Axis

AXES = {"kind": Axis(5, ordered=False), "level": Axis(9, ordered=True), "only": Axis(1, ordered=True)}
SIZES = {name: axis.size for name, axis in AXES.items()}
ThroughAFile = Callable[[dict[str, Any]], dict[str, Any]]
Told = list[tuple[dict[str, int], float]]


def score(point: dict[str, int]) -> float:
    """A made-up score with its peak at kind 3, level 6."""
    return 0.5 * (point["kind"] == 3) + 0.5 - abs(point["level"] - 6) / 16


def play(tpe: TPE, count: int) -> list[dict[str, int]]:
    points = []
    for _ in range(count):
        points.append(tpe.ask())
        tpe.tell(points[-1], score(points[-1]))
    return points


def made_up(count: int) -> Told:
    draws = random.Random(0)
    return [({name: draws.randrange(size) for name, size in SIZES.items()}, draws.random()) for _ in range(count)]


def after(told: Told, asks: int = 0) -> dict[str, int]:
    """Return the next point of a TPE that was asked so often in vain, and told so much."""
    tpe = TPE(AXES, 0)
    for _ in range(asks):
        tpe.ask()
    for point, value in told:
        tpe.tell(point, value)
    return tpe.ask()


def test_points_lie_on_all_axes_whole() -> None:
    points = play(TPE(AXES, 0, startup=60), 60)
    assert all(type(value) is int for point in points for value in point.values())
    for name, size in SIZES.items():
        assert {point[name] for point in points} == set(range(size))


def test_the_first_points_are_uniform() -> None:
    points = play(TPE(AXES, 0, startup=100), 100)
    for name, size in SIZES.items():
        counts = [sum(point[name] == value for point in points) for value in range(size)]
        chi_square = sum((count - 100 / size) ** 2 / (100 / size) for count in counts)
        assert chi_square < 30  # p < 3e-4 with the 8 degrees of freedom of the largest axis


def test_the_seed_decides() -> None:
    assert play(TPE(AXES, 3), 15) == play(TPE(AXES, 3), 15)
    assert play(TPE(AXES, 3), 5) != play(TPE(AXES, 4), 5)


def test_the_next_point_is_a_function_of_asks_and_of_what_was_told() -> None:
    told = made_up(30)
    other = [(point, 1 - value) for point, value in told]
    points = [after(told, asks) for asks in range(20)]
    assert points == [after(told, asks) for asks in range(20)]
    assert any(point != points[0] for point in points)
    assert points != [after(other, asks) for asks in range(20)]


def test_what_was_asked_is_known_only_once_it_is_told() -> None:
    """Points told that were asked for teach no more and no less than points that were not."""
    asking, made = TPE(AXES, 0), made_up(30)
    first = asking.ask()
    for point, value in [(first, 0.7), *made]:
        asking.tell(point, value)
    assert asking.ask() == after([(first, 0.7), *made], asks=1)


@pytest.mark.parametrize("asked", [0, 4, 10, 25])
def test_resuming_is_not_noticed(asked: int, through_a_file: ThroughAFile) -> None:
    unbroken, first, second = TPE(AXES, 0), TPE(AXES, 0), TPE(AXES, 1)
    expected = play(unbroken, asked + 8)
    start = play(first, asked)
    play(second, 3)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert start + play(second, 8) == expected
    assert second.state_dict() == unbroken.state_dict()


def test_resuming_is_not_noticed_where_much_was_forgotten(through_a_file: ThroughAFile) -> None:
    unbroken, resumed = TPE(AXES, 0), TPE(AXES, 1)
    for count, (point, value) in enumerate(made_up(2 * MOST)):
        unbroken.tell(point, value)
        if count == MOST + 7:
            resumed.load_state_dict(through_a_file(unbroken.state_dict()))
        elif count > MOST + 7:
            resumed.tell(point, value)
    assert play(resumed, 3) == play(unbroken, 3)


def test_state_does_not_change_afterwards() -> None:
    first, second = TPE(AXES, 0), TPE(AXES, 1)
    play(first, 12)
    state = first.state_dict()
    expected = play(first, 4)
    second.load_state_dict(state)
    assert play(second, 4) == expected


def test_the_best_and_the_newest_are_remembered_and_no_more_than_most() -> None:
    tpe, told = TPE(AXES, 0), made_up(3 * MOST)
    for count, (point, value) in enumerate(told, start=1):
        tpe.tell(point, value)
        if count % 25 and not MOST - 1 <= count <= MOST + 2:
            continue
        kept = [value for _, value in tpe.state_dict()["told"]]
        assert min(count, BEST + NEWEST) <= len(kept) <= MOST
        so_far = [value for _, value in told[:count]]
        assert set(sorted(so_far)[-BEST:]) <= set(kept)
        assert set(so_far[-NEWEST:]) <= set(kept)
        assert kept == [value for value in so_far if value in set(kept)]  # in the order told; all scores differ


def test_it_gathers_round_what_scores() -> None:
    late = [point for seed in range(6) for point in play(TPE(AXES, seed), 50)[25:]]
    chance = [{"kind": kind, "level": level} for kind in range(5) for level in range(9)]
    assert mean(point["kind"] == 3 for point in late) > 1.8 * mean(point["kind"] == 3 for point in chance)
    assert mean(abs(point["level"] - 6) for point in late) < 0.6 * mean(abs(point["level"] - 6) for point in chance)


def test_points_that_were_never_asked_teach_as_well() -> None:
    """Told of every point of the space, the first asks are already of the right kind."""
    told = [({"kind": kind, "level": level, "only": 0}, 0.0) for kind in range(5) for level in range(9)]
    points = [after([(point, score(point)) for point, _ in told], asks) for asks in range(12)]
    assert sum(point["kind"] == 3 for point in points) >= 9
    assert sum(abs(point["level"] - 6) <= 2 for point in points) >= 9


def test_optuna_says_nothing_and_keeps_its_verbosity(capfd: pytest.CaptureFixture[str]) -> None:
    verbosity = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        tpe = TPE(AXES, 0)
        play(tpe, 15)
        tpe.load_state_dict(tpe.state_dict())
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(verbosity)
    assert capfd.readouterr() == ("", "")
