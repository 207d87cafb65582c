"""What a plan says: of a planted shift, of how many children fit a budget, and of what needs none. Numbers by hand."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dastune.config import StudyConfig, load_study
from dastune.config.study import BlackBox, Halving
from dastune.orchestration.grid import grid
from dastune.plan import plan_text
from dastune.policy.policy import NO_AUGMENTATION, Policy
from dastune.search.black_box import BlackBoxSearch
from dastune.search.child import Advance
from dastune.training.estimate import CPU_SLOT, GPU, Fit, fit, rung_steps


def digits(*overrides: str) -> StudyConfig:
    """A study of 150 digits in batches of 50, children of 20 epochs: 60 steps."""
    return load_study("digits_noise", overrides=["data.train_images=150", "training.child_epochs=20", *overrides])


def lines(study: StudyConfig, start: str) -> list[str]:
    return [line for line in plan_text(study).splitlines() if line.startswith(start)]


def searching(**options: Any) -> str:
    return "methods={auto_augment: {" + ", ".join(f"{key}: {value}" for key, value in options.items()) + "}}"


def fitting(study: StudyConfig) -> Fit:
    [options] = study.methods.values()
    assert isinstance(options, BlackBox)
    return fit(study, options)


def steps(count: int) -> str:
    return f"budget={{steps: {count}}}"


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
    [told] = lines(digits(f"data.shift={shift}"), "shift")
    assert told == line + "for validation and test images only"


def test_nothing_is_said_of_no_shift() -> None:
    assert lines(digits(), "shift") == []


# Children under a budget in steps.


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (3000, "49 a search, 60 steps each"),  # the fiftieth is not validated any more
        (3001, "50 a search, 60 steps each"),
        (60, "0 a search, 60 steps each"),
    ],
)
def test_children_that_fit_a_budget_in_steps(budget: int, line: str) -> None:
    study = digits(searching(), steps(budget))
    assert lines(study, "children") == [f"children        auto_augment: {line}"]


def test_children_that_end_early_take_the_mean_of_their_rungs() -> None:
    # 8 children to step 8, 4 on to 15, 2 to 30, 1 to 60: 8 x 8 + 4 x 7 + 2 x 15 + 30 = 152 steps of 8 children.
    assert rung_steps(60, Halving()) == (8, 15, 30, 60)
    study = digits(searching(halving="{children: 8, eta: 2}"), steps(3000))
    assert lines(study, "children") == ["children        auto_augment: about 157 a search, 19 steps each on average"]


class Instant:
    """A crew whose children train in no time, and a proposer of as many policies as there are `points`, or for ever."""

    space_size_log10, keep = 0.0, 1

    def __init__(self, points: int | None = None) -> None:
        self.steps: dict[int, int] = {}
        self.left = points

    def begin(self, child: int, policy: Policy, state: Mapping[str, Any] | None = None) -> None:
        self.steps[child] = 0

    def advance(self, children: Sequence[int], until: int) -> list[Advance]:
        return [self.one(child, until) for child in children]

    def one(self, child: int, until: int) -> Advance:
        if self.steps[child] < until:
            self.steps[child] += 1
            return Advance(True, self.steps[child])
        return Advance(False, self.steps[child], score=1 / (child + 1))

    def end(self, child: int) -> None:
        del self.steps[child]

    def ask(self) -> Policy | None:
        if self.left is not None:
            self.left -= 1
            return NO_AUGMENTATION if self.left >= 0 else None
        return NO_AUGMENTATION

    def tell(self, policy: Policy, score: float) -> None:
        pass


def ended(options: BlackBox, budget: int, points: int | None = None, epochs: int = 20) -> float:
    """Return how many children a search ends within a budget in steps; an epoch of a child is 3 steps."""
    instant: Any = Instant(points)
    task: Any = SimpleNamespace(train=range(150), recipe=SimpleNamespace(batch_size=50))
    parallel, halving = options.children_in_parallel, options.halving
    search = BlackBoxSearch(task, instant, instant, epochs, parallel=parallel, halving=halving)
    spent, done = 0, False
    while spent < budget and not done:
        progress = search.step(spent / budget)
        spent, done = spent + progress.steps, progress.done
    return search.summary()["children"]


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize(
    ("halving", "cohort"),
    [("null", 0), ("{children: 8, eta: 2}", 8), ("{children: 9, eta: 3}", 9), ("{children: 10, eta: 4}", 10)],
)
@pytest.mark.parametrize("budget", [100, 1000, 7777])
def test_as_many_children_fit_as_a_search_ends(parallel: int, halving: str, cohort: int, budget: int) -> None:
    study = digits(searching(children_in_parallel=parallel, halving=halving), steps(budget))
    options = study.methods["auto_augment"]
    assert isinstance(options, BlackBox)
    # Under halving the children of a cohort end at different times, but each counts with the mean cost.
    assert abs(fitting(study).children - ended(options, budget)) <= cohort


@pytest.mark.parametrize("parallel", [1, 2, 3, 8])
def test_as_many_points_of_a_grid_fit_as_a_search_ends(parallel: int) -> None:
    # Five points, so that the last cohort is smaller, or the only one; children of two epochs, six steps.
    grid = f"methods={{rand_augment: {{n: [1], m: [1, 2, 3, 4, 5], children_in_parallel: {parallel}}}}}"
    for budget in range(1, 40):
        study = digits(grid, steps(budget), "training.child_epochs=2")
        [options] = study.methods.values()
        assert isinstance(options, BlackBox)
        assert fitting(study).children == ended(options, budget, points=5, epochs=2), budget


HALVED_GRID = "methods={rand_augment: {n: [1, 2], m: [1, 2, 3, 4, 5], halving: {}}}"


@pytest.mark.parametrize(("budget", "children"), [(152, 7), (153, 8), (187, 9), (220, 9), (221, 10), (9999, 10)])
def test_the_last_round_of_a_grid_under_halving_costs_what_its_own_children_do(budget: int, children: int) -> None:
    # A round of 8 takes 152 steps, as above; the one of 2 takes 2 x 8, and of the better one 7 + 15 + 30 more: 68.
    assert fitting(digits(HALVED_GRID, steps(budget))).children == children


@pytest.mark.parametrize(("cpus", "devices"), [(1, "3 x 1 CPU"), (2, "3 x 2 CPUs")])
def test_children_in_parallel_are_on_devices_of_their_own(cpus: int, devices: str) -> None:
    study = digits("methods={random: {children_in_parallel: 3}}", f"resources.cpus={cpus}", steps(3001))
    [told] = lines(study, "children")
    assert told == f"children        random: 48 a search, 60 steps each, 3 at a time, on {devices}"


# Children under a budget in device time.


def small_cnn_seconds() -> tuple[float, float]:
    """Device-seconds of a step on 50 digits, and of the forward pass of one."""
    forward = 2 * (16**2 * 9 * 3 * 16 + 8**2 * 9 * 16 * 32 + 4**2 * 9 * 32 * 64 + 64 * 10) / CPU_SLOT.flops_per_second
    return 4 * CPU_SLOT.layer_seconds + 3 * 50 * forward, forward


def test_children_that_fit_device_time_are_guessed_from_the_network() -> None:
    study = digits(searching(), "budget={cpu_hours: 0.01}", "data.validation_images=400")
    step, forward = small_cnn_seconds()
    seconds = 60 * step + 400 * forward
    found = fitting(study)
    assert found.seconds == pytest.approx(seconds)
    assert found.children == int(36 / seconds)
    [line] = lines(study, "children")
    assert (
        line == f"children        auto_augment: about {float(f'{36 / seconds:.2g}'):.0f} a search, {seconds:.2g} s each"
    )
    assert "guessed from the network's arithmetic: 150 GFLOP/s a CPU slot" in plan_text(study)


@pytest.mark.parametrize(("share", "children"), [(0.99, 9), (1.01, 10)])
def test_the_last_round_of_a_grid_in_device_time(share: float, children: int) -> None:
    step, forward = small_cnn_seconds()
    # Steps as above; 8 + 4 + 2 + 1 validations in the first round, 2 + 1 + 1 + 1 in the second.
    seconds = (152 + 68) * step + (15 + 5) * 400 * forward
    budget = f"budget={{cpu_hours: {share * seconds / 3600}}}"
    assert fitting(digits(HALVED_GRID, budget, "data.validation_images=400")).children == children


def test_more_slots_speed_up_the_arithmetic_and_are_charged() -> None:
    one, two, half = (fitting(digits(searching(), f"resources.cpus={cpus}")).seconds for cpus in (1, 2, 0.5))
    assert one is not None
    calls = 60 * 4 * CPU_SLOT.layer_seconds
    assert two == pytest.approx(2 * calls + (one - calls))
    assert half == pytest.approx(one / 2)


def test_children_on_a_gpu_and_that_its_speed_is_assumed() -> None:
    study = load_study("cifar10_noise", overrides=[searching(), "resources.gpus=0.5", "budget={gpu_hours: 2}"])
    # WRN-28-2: a convolution of each group with 32, 64 and 128 channels takes 9 x 32^4 multiply-adds, of the first one
    # half as many, and a shortcut 1 / 18 of the whole one.
    forward = 2 * (9 * 3 * 16 * 32**2 + 3 * 32**4 * 9 * (7 + 1 / 2 + 1 / 18) + 1280) / (0.5 * GPU.flops_per_second)
    step = 26 * GPU.layer_seconds + 3 * 96 * forward
    seconds = 0.5 * (120 * 41 * step + 5000 * forward)
    found = fitting(study)
    assert found.seconds == pytest.approx(seconds)
    assert found.children == int(7200 / seconds)
    assert "a GPU, which is assumed and not measured" in plan_text(study)


def test_of_searches_without_children_nothing_is_guessed() -> None:
    study = digits("methods={das: {}, trivial: {}}")
    assert "children  " not in plan_text(study)
    assert "guessed" not in plan_text(study)


# Grids and warnings.


@pytest.mark.parametrize(
    ("budget", "line", "warned"),
    [
        (601, "children        rand_augment: 10 of the 12 points of its grid, 60 steps each", True),
        (721, "children        rand_augment: its grid of 12 points fits, 60 steps each", False),
    ],
)
def test_whether_a_grid_fits(budget: int, line: str, warned: bool) -> None:
    study = digits("methods={rand_augment: {n: [1, 2, 3], m: [1, 4, 7, 10]}}", steps(budget))
    assert lines(study, "children") == [line]
    advice = (
        "warning         rand_augment: its grid is not walked to the end; consider a larger budget, fewer "
        "training.child_epochs (now 20), halving or fewer points in n and m"
    )
    assert lines(study, "warning") == [advice] * warned


@pytest.mark.parametrize(("budget", "warned"), [(20 * 60, True), (20 * 60 + 1, False)])
def test_less_than_twenty_children_are_few(budget: int, warned: bool) -> None:
    told = lines(digits("methods={random: {}}", steps(budget)), "warning")
    advice = (
        "warning         random: so few children show little; consider a larger budget, fewer training.child_epochs "
        "(now 20) or halving"
    )
    assert told == [advice] * warned


def test_a_budget_without_a_single_child_is_told() -> None:
    [told] = lines(digits("methods={random: {}}", steps(60)), "warning")  # a child takes 60, and then its validation
    assert told.startswith("warning         random: not one child gets a score, and without one it finds nothing; ")


def test_fewer_epochs_or_points_than_one_are_not_advised() -> None:
    one = "training.child_epochs=1"
    [told] = lines(digits(searching(halving="{}"), one, steps(3)), "warning")
    assert told == "warning         auto_augment: so few children show little; consider a larger budget"
    [told] = lines(digits("methods={rand_augment: {n: [1], m: [1]}}", one, steps(3)), "warning")
    assert told.endswith("; consider a larger budget or halving")


def test_halving_is_not_advised_to_who_has_it() -> None:
    [told] = lines(digits(searching(halving="{}"), steps(100)), "warning")
    assert told.endswith("consider a larger budget or fewer training.child_epochs (now 20)")


# Methods without a search.


def test_controls_and_published_policies_need_no_budget_and_are_counted_as_the_grid_has_them() -> None:
    controls = "none: {}, standard: {}, uniform: {}, trivial: {}, aa: {method: published, policy: aa-cifar10}"
    study = digits(f"methods={{das: {{}}, {controls}}}", "seeds.search=[0, 1]", "seeds.final=[0, 1, 2]", steps(10))
    text = plan_text(study)
    # 3 noise levels and 2 seeds: 5 methods x 6, and a published one at a level only.
    assert "digits_noise: 32 searches = 5 methods x 3 noise levels x 2 seeds + 1 published x 2 seeds" in text
    assert "without search  none, standard, uniform, trivial, aa: 26 of them, no budget needed" in text
    assert "search total    at most 6 x 10 steps = 60 steps" in text
    assert "final trainings 96 x " in text
    assert len(grid(study)) == 32


def test_a_study_without_searches_has_no_budget_to_tell_of() -> None:
    text = plan_text(digits("methods={none: {}, trivial: {}}"))
    assert "each search" not in text
    assert "search total" not in text


def test_a_study_of_published_policies_tells_of_nothing_else() -> None:
    study = digits("methods={aa: {method: published, policy: aa-cifar10}}")
    assert plan_text(study).split("\n\n")[0].splitlines() == [
        "digits_noise: 3 searches = 1 published x 3 seeds",
        "methods         aa",
        "without search  aa: 3 of them, no budget needed",
        "final trainings 3 x 150 epochs of 150 images; metered apart, their time depends on the device",
    ]


# Training images removed.


def removing(*percents: int, **changes: str) -> StudyConfig:
    """A study of 100 digits to search, 50 to validate and 150 to train."""
    data = f"data={{name: digits, search_images: 100, validation_images: 50, removed_percent: {list(percents)}}}"
    study = ["data.train_images=150", "space.noise.levels=[0]", "training.child_epochs=10", searching(), steps(3000)]
    return load_study("digits_noise", overrides=[data, *study, *(f"{key}={value}" for key, value in changes.items())])


def test_what_is_left_of_the_data() -> None:
    study = removing(0, 90)
    assert lines(study, "digits_noise: ") == [
        "digits_noise: 6 searches = 1 methods x 2 shares of the data removed x 3 seeds"
    ]
    assert lines(study, "removed ") == [
        "removed  0 %    searches train on 100 images and validate on 50, final trainings on 150",
        "removed 90 %    searches train on 10 images and validate on 5, final trainings on 15",
    ]
    assert lines(study, "warning") == [
        "warning         90 % removed leaves searches 10 and 5 images of 10 classes, so not one of each; remove less, "
        "or give more images"
    ]
    [final] = lines(study, "final trainings")
    assert "epochs of what is left of 150 images; " in final
    assert len(grid(study)) == 6


def test_children_are_told_where_the_least_is_removed() -> None:
    # 100 images in batches of 50: 20 steps a child, of 3,000 of which the last ends the search; half of them: 10.
    [whole], [half] = (lines(removing(*percents), "children") for percents in ((50, 0), (90, 50)))
    assert whole == "children        auto_augment: 149 a search, 20 steps each; more where more is removed"
    assert half == "children        auto_augment: 299 a search, 10 steps each; more where more is removed"


def test_all_that_is_left_is_told_as_such() -> None:
    study = load_study(
        "digits_noise",
        overrides=[
            "data={name: digits, train_images: null, search_images: 500, validation_images: 500}",
            "data.removed_percent=[30]",
        ],
    )
    assert lines(study, "removed ") == [
        "removed 30 %    searches train on 350 images and validate on 350, final trainings on all that is left"
    ]
    assert lines(study, "digits_noise: ")[0].count("noise levels") == 1  # which it varies still


def test_of_a_folder_that_its_images_are_not_counted_yet() -> None:
    folder = load_study("digits_noise", overrides=["data={name: folder, root: /data/mine}"])
    assert len(lines(folder, "data  ")) == 1
    assert lines(digits(), "data  ") == []
