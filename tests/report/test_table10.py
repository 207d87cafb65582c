"""Table 10: the study's own numbers, and the paper's only beside CIFAR-10."""

import csv
import io
import json
import statistics

import pytest
from scipy import stats

from dastune.folder import FinalRow
from dastune.report.results import read_results
from dastune.report.sections.table10 import table10 as section
from dastune.report.sections.training import training_tables
from dastune.report.table10 import published10, table10

# The rows of CIFAR-10 as the paper's supplement prints them; one number for each two methods where there are two.
PRINTED = {
    "test accuracy, %": ["94.12", "94.23", "94.15", "95.12"],
    "parameters": ["11.18 M", "11.18 M", "11.20 M", "11.20 M"],
    "FLOPs, as printed": ["37.12 M", "37.12 M", "37.12 M", "37.12 M"],
}


def by_name(table):
    return {row[0]: list(row[1:]) for row in table.rows}


def seed_means(folder, method):
    """Search seed -> test accuracy in percent, over the training seeds."""
    values = {}
    for row in folder.final_rows():
        if row.method == method:
            values.setdefault(row.search_seed, []).append(100 * row.test_accuracy)
    return {seed: statistics.mean(of) for seed, of in values.items()}


def signed(value):
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def test_a_column_a_method(make_video_study):
    folder = make_video_study()
    # Differences that are not the same in each seed.
    row = next(row for row in folder.final_rows() if (row.method, row.search_seed) == ("ours", 1))
    folder.add_final(FinalRow(**{**vars(row), "test_accuracy": row.test_accuracy + 0.03}))
    table = table10(read_results(folder))
    assert table.columns == ("method", "baseline", "aug", "reshuffled", "ours")
    rows = by_name(table)
    baseline = seed_means(folder, "baseline")
    for place, method in enumerate(table.columns[1:]):
        seeds = seed_means(folder, method)
        accuracy = f"{statistics.mean(seeds.values()):.1f} ± {statistics.stdev(seeds.values()):.1f}\n(n=3)"
        assert rows["test accuracy, %"][place] == accuracy
        if method == "ours":
            differences = [seeds[seed] - baseline[seed] for seed in (0, 1, 2)]
            low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
            mean = statistics.mean(differences)
            assert rows["above baseline"][place] == f"{signed(mean)}\n{signed(low)} to {signed(high)}"
    assert rows["above baseline"][0] == "-"
    assert rows["network reads"] == ["images", "images\none frame of a clip", "8 frames\nshuffled", "8 frames\nin time"]
    assert rows["tested on"] == ["clean images"] * 2 + ["clips\nof the found cell"] * 2
    assert rows["parameters"] == ["700", "700", "701", "701"]
    assert rows["FLOPs of a frame"] == ["0.01 M"] * 4  # 5,000 of each
    assert rows["FLOPs of an image"] == ["0.01 M"] * 2 + ["0.04 M"] * 2
    assert "a multiply-add counts as two" in table.note


def test_numbers_in_the_file(make_video_study):
    folder = make_video_study()
    read = {row["method"]: row for row in csv.DictReader(io.StringIO(table10(read_results(folder)).csv()))}
    for method, frames in (("baseline", 1), ("aug", 1), ("reshuffled", 8), ("ours", 8)):
        row, seeds = read[method], seed_means(folder, method)
        assert float(row["test_accuracy_mean"]) == pytest.approx(statistics.mean(seeds.values()) / 100)
        assert (row["n"], row["frames"], row["evaluation"]) == ("3", str(frames), "cell" if frames == 8 else "image")
        assert (float(row["flops_per_frame"]), float(row["flops_per_image"])) == (5000, 5000 * frames)
    assert read["baseline"]["difference"] == ""


def test_copies_are_told(make_video_study):
    folder = make_video_study()
    lines = [json.loads(line) for line in folder.finals.read_text().splitlines()]
    told = [line | ({"evaluation": "copies"} if line["method"] == "ours" else {}) for line in lines]
    folder.finals.write_text("".join(json.dumps(line) + "\n" for line in told))
    assert by_name(table10(read_results(folder)))["tested on"][-1] == "clips\nof clean copies"


@pytest.mark.parametrize(
    ("methods", "baseline"),
    [
        ({"plain": {"method": "none"}, "shown": {"method": "standard"}, "das_video": {}}, "shown"),
        ({"plain": {"method": "none"}, "das_video": {}}, "plain"),
        ({"das_video": {}}, None),
    ],
)
def test_what_clips_are_held_against(make_video_study, methods, baseline):
    table = table10(read_results(make_video_study(methods=methods)))
    told = [name.removeprefix("above ") for name in by_name(table) if name.startswith("above ")]
    assert told == ([] if baseline is None else [baseline])
    assert ("no method standard or none" in table.note) is (baseline is None)


def test_the_papers_figures_are_of_cifar10_alone_and_apart(make_video_study):
    own = read_results(make_video_study(data="cifar10"))
    table = published10(own)
    assert by_name(table) == PRINTED
    assert table.groups == [("published", 4)]
    assert "They were not run here." in table.note
    assert not any("94.12" in text for row in table10(own).rows for text in row)
    assert published10(read_results(make_video_study(data="cifar100", name="other"))) is None


def test_there_is_none_without_clips_or_results(make_study, make_video_study):
    for folder in (make_study(levels=(0,)), make_video_study(name="empty", without=_all_ids())):
        results = read_results(folder)
        assert table10(results) is None
        assert published10(results) is None
        assert section(results) == ""
        assert all("clip" not in table.note for table in training_tables(results))


def _all_ids():
    return tuple(f"{method}-n0-s{seed}" for method in ("baseline", "aug", "reshuffled", "ours") for seed in (0, 1, 2))
