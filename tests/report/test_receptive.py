"""Receptive fields on the page: maps of some networks, areas of all, and nothing of a file that is none."""

import csv
import io
import statistics

import matplotlib as mpl
import numpy as np
import pytest

from dastune.folder import write_atomic
from dastune.report.figures import receptive_figure
from dastune.report.page import write_report
from dastune.report.results import read_results
from dastune.report.sections.receptive import receptive, receptive_tables
from dastune.training.receptive_map import ReceptiveField

SIDE = 24


def bump(width):
    """A map whose area at half its peak grows with `width`."""
    at = np.arange(SIDE) - SIDE // 2
    return np.exp(-(at[:, None] ** 2 + at**2) / (2 * width**2)).astype(np.float32)


def by_method(results):
    [table] = receptive_tables(results)
    return {row[0]: row[1:] for row in table.rows}


@pytest.fixture
def make_measured(make_video_study):
    """Return a function that writes a study with fields, wider ones for later methods and seeds."""

    def make(**study):
        folder = make_video_study(**study)
        for place, row in enumerate(folder.final_rows()):
            field = ReceptiveField.of(bump(2 + 0.1 * place), 32, "resnet-18", row.frames)
            write_atomic(folder.receptive_field(row.search_id, row.train_seed), field.text())
        return folder

    return make


def test_areas_are_of_single_trainings(make_measured):
    folder = make_measured()
    results = read_results(folder)
    [table] = receptive_tables(results)
    rows = by_method(results)
    assert [*rows] == ["baseline", "aug", "reshuffled", "ours"]
    read = {row["method"]: row for row in csv.DictReader(io.StringIO(table.csv()))}
    finals = folder.final_rows()
    for method, (frames, *texts, trainings) in rows.items():
        maps = [bump(2 + 0.1 * place) for place, row in enumerate(finals) if row.method == method]
        assert (trainings, frames) == ("6", "images" if method in ("baseline", "aug") else "8 frames")
        for share, text, name in ((0.5, texts[0], "half"), (0.1, texts[1], "tenth")):
            areas = [100 * sum(value >= share for value in map_HW.ravel()) / SIDE**2 for map_HW in maps]
            assert text == f"{statistics.mean(areas):.1f} ± {statistics.stdev(areas):.1f}"
            assert float(read[method][f"{name}_mean"]) == pytest.approx(statistics.mean(areas) / 100)
    assert "32 test images" in table.note
    assert "damaged" not in table.note


def test_maps_are_the_mean_of_the_trainings_in_one_scale(make_measured):
    fields, damaged = read_results(make_measured()).receptive_fields
    assert damaged == 0
    figure = receptive_figure([(item.method, "text", item.map_HW) for item in fields])
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["baseline", "aug", "reshuffled", "ours"]
    for place, axes in enumerate(panels):
        expected = np.mean([bump(2 + 0.1 * (6 * place + k)) for k in range(6)], 0)
        [image] = axes.images
        np.testing.assert_allclose(image.get_array(), expected / expected.max(), atol=1e-3)
        assert image.get_clim() == (0, 1)
        [lines] = axes.collections
        assert [*lines.levels] == [0.1, 0.5]
        # Lines of level curves pass where the map has that level: between the outer and the inner pixels.
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            around = np.hypot(*(path.vertices - SIDE // 2).T)
            row = expected[SIDE // 2, SIDE // 2 :] / expected.max()
            outside = int(np.argmax(row < level))
            assert outside - 1.2 < around.min() <= around.max() < outside + 0.2
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "tenth", "half", "peak"]


def test_the_scale_of_colours_is_even_to_the_eye_and_known_to_matplotlib(make_measured):
    figure = receptive_figure([("one", "", bump(3))])
    rgb = figure.axes[0].images[0].get_cmap()(np.linspace(0, 1, 9))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])  # CIE 1976, up to scale and offset
    steps = np.diff(lightness)
    assert steps.min() > 0.6 * steps.mean()


@pytest.mark.parametrize("count", range(1, 10))
def test_any_number_of_maps_fits(count):
    names = ["x" * 60, "$a_b$", "<b>", "méthode", *"efghi"][:count]
    figure = receptive_figure([(name, "half 1 %\ntenth 2 %", bump(3)) for name in names])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == len(set(titles)) == count
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_title()]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])


@pytest.mark.parametrize("map_HW", [np.full((8, 8), 1.0), np.eye(1, 12), np.ones((1, 1)), 0.6 + 0.4 * np.eye(8)])
def test_maps_without_a_line_are_drawn(map_HW):
    receptive_figure([("one", "", map_HW)]).draw_without_rendering()


def test_the_section_shows_the_first_plain_network_and_those_of_clips(make_measured, tmp_path):
    folder = make_measured(
        methods={
            "das_video": {"frames": 8, "use": "clip"},
            "none": {},
            "standard": {},
            "framed": {"method": "das_video", "use": "frame"},
        }
    )
    results = read_results(folder, tmp_path)
    section = receptive(results)
    label = section[section.index('aria-label="Maps') :].split('"')[1]
    shown = [part.split(":")[0].split()[-1] for part in label.split(" half ")[:-1]]
    assert shown == ["none", "das_video", "framed"]
    assert "Of the other methods, see the table." in section
    assert f"{SIDE} x {SIDE} px" in section
    assert "networks trained here" in section
    assert section.count("<image ") == 4  # three maps and the scale, as data in the page
    assert len(by_method(results)) == 4
    made = {f"figure8.{form}": (tmp_path / f"figure8.{form}").read_bytes() for form in ("png", "svg", "pdf")}
    with mpl.rc_context({"image.cmap": "jet", "contour.linewidth": 9, "font.size": 30}):  # a reader's own
        assert receptive(read_results(folder, tmp_path)) == section
    assert {name: (tmp_path / name).read_bytes() for name in made} == made


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 200_000, b'{"format": 1, "map_HW": 3}'])
def test_a_damaged_file_is_left_out_and_told(make_measured, content):
    folder = make_measured()
    folder.receptive_field("ours-n0-s1", 1).write_bytes(content)
    small = ReceptiveField.of(bump(3)[:8, :8] + np.float32(0.01), 32, "resnet-18", 1)
    folder.receptive_field("aug-n0-s0", 0).write_text(small.text())
    [table] = receptive_tables(read_results(folder))
    assert [row[-1] for row in table.rows] == ["6", "5", "6", "5"]
    assert "2 files are damaged and left out." in table.note


def test_no_file_is_followed_out_of_the_folder(make_measured, tmp_path):
    folder = make_measured()
    path = folder.receptive_field("ours-n0-s1", 1)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    [table] = receptive_tables(read_results(folder))
    assert [row[-1] for row in table.rows] == ["6", "6", "6", "5"]
    folder.receptive_fields.rename(tmp_path / "fields")
    folder.receptive_fields.symlink_to(tmp_path / "fields")
    assert receptive_tables(read_results(folder)) == []


def test_without_fields_there_is_no_section(make_video_study, tmp_path):
    assert receptive(read_results(make_video_study(), tmp_path)) == ""
    assert not (tmp_path / "figure8.svg").exists()


def test_the_page_has_the_section_and_its_files(make_measured):
    page = write_report(make_measured(data="cifar10"))
    text = page.read_text()
    places = [text.index(f'id="{name}"') for name in ("table10", "receptive", "table11")]
    assert places == sorted(places)
    made = {path.name for path in (*page.parent.iterdir(), *page.parent.glob("tables/*"))}
    for name in ("table10", "table10_published", "receptive_fields"):
        assert {f"{name}.{form}" for form in ("csv", "md", "tex")} <= made
    assert {f"figure8.{form}" for form in ("png", "svg", "pdf")} <= made
    assert "Published figures: Table 10 of the DAS paper" in text
    assert "of all its frames where it is made a clip" in text
    assert all(
        (page.parent / "tables" / f"{name}.tex").read_text().isascii() for name in ("table10", "table10_published")
    )
