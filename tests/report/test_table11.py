"""Table 11: the study's own numbers, and the paper's only where they belong."""

import csv
import io
import statistics
from dataclasses import replace

import pytest

from dastune.report.results import read_results
from dastune.report.table11 import table11

# Table 11 as the paper's supplement prints it
PRINTED = """
Baseline	0	94.90	75.40	96.70	76.30
AA	10^{32}	95.90	78.50	98.00	77.60
RA	10^2	95.80	78.30	98.30	77.60
DAS	10^{13}	96.10	78.90	98.30	77.90
"""
NAMES = {"AA": "AutoAugment", "RA": "RandAugment"}
SUPERSCRIPTS = {"⁰": "0", "¹": "1", "²": "2", "³": "3"}


@pytest.fixture
def results_of(make_study):
    """Return a function that makes a study of a data set and reads it."""

    def make(data="digits", model="{name: small_cnn}", budget="{cpu_hours: 0.5}", **study):
        folder = make_study(**study)
        text = folder.study.read_text()
        folder.study.write_text(f"{text}data: {{name: {data}}}\nmodel: {model}\nbudget: {budget}\n")
        return read_results(folder)

    return make


def by_method(table):
    return {row[0]: list(row[1:]) for row in table.rows}


def test_a_study_at_its_lowest_level(results_of):
    results = results_of(levels=(0, 4))
    table = table11([("", results)])
    assert table.groups == [("digits, small_cnn, 0 noise ops", 4)]
    rows = by_method(table)
    assert [*rows] == ["das", "rand_augment", "random", "none"]
    for method, row in rows.items():
        seeds = [
            statistics.mean(
                final.test_accuracy
                for final in results.finals
                if (final.method, final.noise_level, final.search_seed) == (method, 0, seed)
            )
            for seed in (0, 1, 2)
        ]
        accuracy = f"{100 * statistics.mean(seeds):.1f} ± {100 * statistics.stdev(seeds):.1f}\n(n=3)"
        assert row == ["10³⁰", "10.0 s", "11.0 s", accuracy]
    assert "Budget of a search: 0.5 CPU-hours." in table.note
    assert "none is published for digits" in table.note


def test_sizes(results_of, search_row):
    results = results_of(methods=("das",), levels=(0,), seeds=(0,))
    rows = [search_row(f"m{size}", 0, 0, space_size_log10=size) for size in (0.0, 1.1760912590556813, 2.9, 31.6)]
    table = table11([("", replace(results, searches=tuple(rows), finals=()))])
    assert [row[1] for row in table.rows] == ["no choice", "15", "794", "10³²"]


@pytest.mark.parametrize(("column", "data"), [(2, "cifar10"), (3, "cifar100"), (4, "svhn"), (5, "imagenet")])
def test_published_rows_are_the_papers(results_of, column, data):
    table = table11([("", results_of(data=data))])
    rows = by_method(table)
    for line in PRINTED.strip().splitlines():
        cells = line.split("\t")
        space, charged, held, accuracy = rows[f"{NAMES.get(cells[0], cells[0])}, published"]
        size = cells[1].replace("10^", "").strip("{}")
        assert "".join(SUPERSCRIPTS.get(digit, digit) for digit in space.removeprefix("10")) == (
            "no choice" if size == "0" else size
        )
        network = "ResNet-50" if data == "imagenet" else "WRN-28-2"
        assert (charged, held, accuracy) == ("-", "-", f"{cells[column]}\n({network})")
    assert "They were not run here" in table.note
    assert "none is published" not in table.note


def test_several_studies_stand_side_by_side(results_of):
    one = results_of(name="one", methods=("das", "none"))
    two = results_of(name="two", data="cifar10", budget="{gpu_hours: 24}", methods=("das", "random"), levels=(4,))
    table = table11([("one", one), ("two", two)])
    assert table.groups == [
        ("one: digits, small_cnn, 0 noise ops", 4),
        ("two: cifar10, small_cnn, 4 noise ops", 4),
    ]
    rows = by_method(table)
    assert [*rows][:3] == ["das", "none", "random"]
    assert rows["none"][4:] == rows["random"][:4] == ["-"] * 4
    assert rows["DAS, published"][:4] == ["-"] * 4
    assert rows["DAS, published"][7].startswith("96.10")
    assert "one: 0.5 CPU-hours; two: 24 GPU-hours" in table.note
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_numbers_in_the_file(results_of):
    results = results_of(data="svhn", levels=(0,))
    rows = list(csv.DictReader(io.StringIO(table11([("", results)]).csv())))
    own = {row["method"]: row for row in rows if row["published"] == "False"}
    for cell in results.cells:
        assert float(own[cell.method]["test_accuracy_mean"]) == cell.mean
        assert float(own[cell.method]["held_seconds"]) == 11.0
        assert own[cell.method]["n"] == "3"
    quoted = [row for row in rows if row["published"] == "True"]
    assert [float(row["test_accuracy_mean"]) for row in quoted] == [0.967, 0.98, 0.983, 0.983]
    assert {(row["n"], row["charged_seconds"], row["study"], row["data"]) for row in quoted} == {("", "", "", "svhn")}


def test_nothing_is_in_yet(results_of):
    assert table11([("", results_of(methods=()))]) is None


def test_a_method_that_lacks_the_lowest_level_keeps_its_row(results_of):
    table = table11([("", results_of(without=("das-n0-s0", "das-n0-s1", "das-n0-s2")))])
    assert by_method(table)["das"] == ["-"] * 4


@pytest.mark.parametrize("text", ["", "data: 7", "data: {name: [1]}\nmodel: {name: {a: 1}, depth: x}\nbudget: .nan"])
def test_a_study_file_that_says_nothing(make_study, text):
    folder = make_study(levels=(0,))
    folder.study.write_text(text)
    table = table11([("", read_results(folder))])
    assert table.groups == [("not said, not said, 0 noise ops", 4)]
    assert len(table.rows) == 4
