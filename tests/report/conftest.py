"""Synthetic studies: rows as searches and final trainings would leave them, with no search run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dastune.folder import FinalRow, SearchRow, Status, StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, policy_text

STUDY = """# <b>a comment</b> that must come out as text
name: digits
space: {ops: das-image, noise: {ops: default, levels: [0, 4]}}
methods: {das: {}, rand_augment: {}, random: {}, none: {}}
seeds: {search: [0, 1, 2], final: [0, 1]}
"""


@pytest.fixture
def search_row() -> Callable[..., SearchRow]:
    def make(
        method: str = "das", level: int = 0, seed: int = 0, status: Status = "budget", **fields: object
    ) -> SearchRow:
        name = f"{method}-n{level}-s{seed}"
        row = SearchRow(
            name,
            method,
            level,
            seed,
            0.9,
            11.0,
            10.0,
            100,
            5,
            0.1 + 0.01 * seed,
            0.2,
            30.0,
            f"policies/{name}.json",
            status,
        )
        return replace(row, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def final_row() -> Callable[..., FinalRow]:
    def make(accuracy: float, method: str = "das", level: int = 0, seed: int = 0, train_seed: int = 0) -> FinalRow:
        name = f"{method}-n{level}-s{seed}"
        return FinalRow(name, method, level, seed, train_seed, accuracy, 0.2, 30, 20.0, 1000.0, 10_000, 1_000_000)

    return make


def accuracy_of(method: str, level: int, seed: int, train_seed: int) -> float:
    """A planted accuracy: methods in steps of 1 point, 0.2 points lost a noise op, 0.3 points between seeds."""
    place = {"das": 0, "rand_augment": 1, "random": 2, "none": 3}.get(method, 4)
    return 0.95 - 0.01 * place - 0.002 * level * (place + 1) + 0.003 * (seed - 1) + 0.001 * train_seed


@pytest.fixture
def make_study(
    tmp_path: Path, search_row: Callable[..., SearchRow], final_row: Callable[..., FinalRow]
) -> Callable[..., StudyFolder]:
    """Return a function that writes a study: `without` searches never came in, `failed` ones failed."""

    def make(
        name: str = "digits",
        methods: tuple[str, ...] = ("das", "rand_augment", "random", "none"),
        levels: tuple[int, ...] = (0, 4),
        seeds: tuple[int, ...] = (0, 1, 2),
        without: tuple[str, ...] = (),
        failed: tuple[str, ...] = (),
    ) -> StudyFolder:
        folder = StudyFolder(tmp_path / name)
        write_atomic(folder.study, STUDY)
        write_atomic(folder.env, json.dumps({"python": "3.11", "versions": {"numpy": "2.<i>"}, "devices": ["cpu"]}))
        policy = Stages(
            stages=(
                (Choice(weight=3, step=Step(op="rotate", high=30)), Choice(weight=1, step=Step(op="pixel_shuffle"))),
            )
        )
        for method in methods:
            for level in levels:
                for seed in seeds:
                    row = search_row(method, level, seed)
                    if row.id in without:
                        continue
                    folder.add_search(replace(row, status="failed") if row.id in failed else row)
                    if row.id in failed:
                        continue
                    write_atomic(folder.root / row.policy, policy_text(policy, {}))
                    for train_seed in (0, 1):
                        accuracy = accuracy_of(method, level, seed, train_seed)
                        folder.add_final(final_row(accuracy, method, level, seed, train_seed))
        return folder

    return make


VIDEO = {"method": "das_video", "frames": 8}
VIDEO_METHODS = {
    "baseline": {"method": "standard"},
    "aug": {**VIDEO, "use": "frame"},
    "reshuffled": {**VIDEO, "use": "shuffled"},
    "ours": {**VIDEO, "use": "clip"},
}


@pytest.fixture
def make_video_study(make_study: Callable[..., StudyFolder]) -> Callable[..., StudyFolder]:
    """Return a function that writes a study from image to video: a network of 5 kFLOPs a frame, and clips of 8."""

    def make(data: str = "digits", methods: dict[str, dict[str, object]] | None = None, **rest: object) -> StudyFolder:
        methods = VIDEO_METHODS if methods is None else methods
        folder = make_study(methods=tuple(methods), levels=(0,), **rest)
        study = {
            "data": {"name": data},
            "model": {"name": "resnet", "depth": 18},
            "space": {"noise": {"levels": [0]}},
            "methods": methods,
            "seeds": {"search": [0, 1, 2], "final": [0, 1]},
        }
        write_atomic(folder.study, json.dumps(study))
        finals = folder.final_rows()
        folder.finals.unlink(missing_ok=True)
        for row in finals:
            accuracy = row.test_accuracy + 0.0102 * [*methods].index(row.method)
            frames = 8 if methods[row.method].get("use") in ("clip", "shuffled") else 1
            evaluation = "image" if frames == 1 else "cell"
            more = {"frames": frames, "evaluation": evaluation, "flops": 5000 * frames, "test_accuracy": accuracy}
            folder.add_final(replace(row, parameters=700 + (frames > 1), **more))
        return folder

    return make
