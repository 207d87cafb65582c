"""Figures draw what the cells say, and the same cells give the same bytes."""

import itertools
import math
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dastune.report.curves import Bundle
from dastune.report.figures import accuracy_figure, curves_figure, noise_mass_figure, save, sd_figure
from dastune.report.figures.curves import marked
from dastune.report.figures.frame import looks
from dastune.report.figures.levels import MOST_BAR
from dastune.report.figures.style import COLORS, style
from dastune.report.stats import cells

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


@pytest.fixture
def found(make_study):
    folder = make_study(levels=(0, 4, 8))
    return cells(folder.search_rows(), folder.final_rows())


def line(figure, gid):
    (match,) = [line for line in figure.axes[0].lines if line.get_gid() == gid]
    return match.get_xydata()


@pytest.mark.parametrize("index", range(4))
def test_lines_are_the_means_and_every_seed_is_a_point(found, index):
    figure = accuracy_figure(found)
    mine = found[3 * index : 3 * index + 3]
    np.testing.assert_allclose(line(figure, f"mean-{index}"), [(cell.level, 100 * cell.mean) for cell in mine])
    points = line(figure, f"seeds-{index}")
    np.testing.assert_allclose(points[:, 1], [100 * value for cell in mine for value in cell.accuracies.values()])
    beside = points[:, 0] - np.repeat([0, 4, 8], 3)
    assert np.all(np.abs(beside) < 1)
    assert np.ptp(beside) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("count", "size", "over"), [(15, 3.4, True), (60, 1.7, False)])
def test_a_crowd_of_seeds_does_not_hide_the_mean(search_row, final_row, count, size, over):
    found = cells(
        [search_row("das", level, seed) for level in (0, 4) for seed in range(count)],
        [final_row(0.9, "das", level, seed) for level in (0, 4) for seed in range(count)],
    )
    drawn = {line.get_gid(): line for line in accuracy_figure(found).axes[0].lines}
    assert drawn["seeds-0"].get_markersize() == pytest.approx(size)
    assert (drawn["seeds-0"].get_zorder() > drawn["mean-0"].get_zorder()) is over


def test_the_band_is_mean_and_sd(found):
    band = accuracy_figure(found).axes[0].collections[0].get_paths()[0].vertices
    cell = found[0]
    at_zero = band[band[:, 0] == 0, 1]
    assert at_zero.min() == pytest.approx(100 * (cell.mean - cell.sd))
    assert at_zero.max() == pytest.approx(100 * (cell.mean + cell.sd))


@pytest.mark.parametrize(
    ("counts", "shaded", "bars"), [((3, 3, 1), [0, 4], []), ((3, 1, 1), [], [0]), ((1, 1, 1), [], [])]
)
def test_no_band_where_one_seed_has_no_spread(final_row, counts, shaded, bars):
    finals = [
        final_row(0.9 + 0.01 * seed, "das", level, seed)
        for level, count in zip((0, 4, 8), counts, strict=True)
        for seed in range(count)
    ]
    bands, lines = accuracy_figure(cells([], finals)).axes[0].collections
    assert sorted({x for path in bands.get_paths() for x, _ in path.vertices if np.ptp(path.vertices[:, 0])}) == shaded
    assert [segment[0, 0] for segment in lines.get_segments()] == bars


def test_noise_mass_with_its_uniform_share(found):
    figure = noise_mass_figure(found)
    np.testing.assert_allclose(line(figure, "mean-0")[:, 1], [100 * cell.noise_mass for cell in found[:3]])
    np.testing.assert_allclose(line(figure, "uniform"), [(0, 20), (4, 20), (8, 20)])
    assert "all ops equally likely" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_axes_and_legend(found):
    figure = accuracy_figure(found)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "Noise ops in the search space"
    assert axes.get_ylabel() == "Test accuracy (%)"
    assert axes.get_title() == ""
    assert list(axes.get_xticks()) == [0, 4, 8]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["das", "rand_augment", "random", "none"]
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 <= axes.get_tightbbox().y0


@pytest.mark.parametrize("draw", [accuracy_figure, noise_mass_figure, sd_figure])
def test_the_same_cells_give_the_same_bytes(found, tmp_path, draw):
    for run in ("a", "b"):
        save(draw(found), tmp_path / run / "figure9")
    for extension in ("png", "svg", "pdf"):
        one, other = ((tmp_path / run / f"figure9.{extension}").read_bytes() for run in ("a", "b"))
        assert one == other
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_nothing_one_level_one_seed_and_odd_names(search_row, final_row, tmp_path):
    save(accuracy_figure([]), tmp_path / "empty")
    save(noise_mass_figure([]), tmp_path / "empty")
    save(sd_figure([]), tmp_path / "empty")
    save(sd_figure(cells([], [final_row(0.5)])), tmp_path / "one_seed")
    save(curves_figure([], ("x", "y"), "steps"), tmp_path / "empty")
    save(accuracy_figure(cells([search_row()], [])), tmp_path / "no_finals")
    odd = ["_hidden", "$x^{", "\N{CJK UNIFIED IDEOGRAPH-65E5}<b>", *(f"{'long_' * 8}{place}" for place in range(6))]
    found = cells([search_row(name) for name in odd], [final_row(0.9, name) for name in odd])
    figure = accuracy_figure(found)
    save(figure, tmp_path / "odd")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == len(odd)
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width


@pytest.mark.parametrize("index", range(4))
def test_the_sd_with_its_interval(found, index):
    figure = sd_figure(found)
    mine = found[3 * index : 3 * index + 3]
    sds = line(figure, f"mean-{index}")
    np.testing.assert_allclose(sds[:, 1], [100 * np.std([*cell.accuracies.values()], ddof=1) for cell in mine])
    (bars,) = [drawn for drawn in figure.axes[0].collections if drawn.get_gid() == f"bars-{index}"]
    top = MOST_BAR * 100 * max(cell.sd for cell in found)
    limits = [(100 * cell.sd_interval[0], min(100 * cell.sd_interval[1], top)) for cell in mine]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], limits)
    np.testing.assert_allclose([segment[0, 0] for segment in bars.get_segments()], sds[:, 0])
    cut = line(figure, f"cut-{index}")
    above = [x for x, cell in zip(sds[:, 0], mine, strict=True) if 100 * cell.sd_interval[1] > top]
    np.testing.assert_allclose(cut[:, 0], above)
    assert figure.axes[0].get_ylim()[0] == 0


def test_curves_are_steps_or_straight_and_carry_marks():
    at, middle = np.arange(20.0), np.sqrt(np.arange(20.0))
    bundles = [("a", Bundle(at, middle, 0.1 + 0 * at, 3)), ("gone", None), ("b", Bundle(at[:1], middle[:1], None, 1))]
    for form, drawn in (("steps", "steps-post"), ("straight", "default")):
        figure = curves_figure(bundles, ("x", "y"), form)
        lines = {line.get_gid(): line for line in figure.axes[0].lines}
        assert lines.keys() == {"mean-0", "mean-2"}
        np.testing.assert_array_equal(lines["mean-0"].get_xydata(), np.column_stack([at, middle]))
        assert lines["mean-0"].get_drawstyle() == drawn
        marks = lines["mean-0"].get_markevery()
        assert marks[0] == 0
        assert marks[-1] == 19
        assert np.ptp(np.diff(marks)) <= 1
        band = figure.axes[0].collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(math.sqrt(19) + 0.1)
    assert marked(bundles[2][1]) == [0]


def test_methods_are_told_apart_by_two_of_colour_marker_and_dash():
    for one, other in itertools.combinations([looks(index) for index in range(13)], 2):
        assert sum(mine != its for mine, its in zip(one, other, strict=True)) >= 2


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB: what is seen without one kind of cones
SEEN = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eyes", ["all", *SEEN])
def test_colours_are_told_apart_by_the_colour_blind(eyes):
    srgb = np.array([to_rgb(color) for color in COLORS])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if eyes in SEEN:
        linear = np.clip(linear @ np.array(SEEN[eyes]).T, 0, 1)
    # CIE Lab of D65 white, in which a distance of 2.3 is just noticed
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    lab = np.column_stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])])
    assert min(math.dist(one, other) for one, other in itertools.combinations(lab, 2)) > 10


def uses(svg):
    """Every mark of an SVG: what is drawn, where, and in which style; styles come from the group where it has one."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        for use in group.findall(f"{SVG}use"):
            if use.get("x"):
                style_text = use.get("style") or group.get("style")
                found.append((use.get(f"{XLINK}href"), float(use.get("x")), float(use.get("y")), style_text))
    return found


def test_an_svg_is_smaller_and_the_same(search_row, final_row, tmp_path):
    rows = [search_row("das", level, seed) for level in (0, 4) for seed in range(200)]
    found = cells(rows, [final_row(0.9 + seed / 3e3, "das", row.noise_level, row.search_seed)
                         for seed, row in enumerate(rows)])  # fmt: skip
    whole = BytesIO()
    with style({"svg.hashsalt": "figure9"}):
        figure = accuracy_figure(found)
        figure.savefig(BytesIO(), dpi=200)  # lays it out
        figure.set_layout_engine("none")
        figure.savefig(whole, format="svg", metadata={"Date": None, "Creator": None})
    save(accuracy_figure(found), tmp_path / "figure9")
    small = (tmp_path / "figure9.svg").read_bytes()
    assert len(small) < 0.6 * len(whole.getvalue())
    before, after = uses(whole.getvalue()), uses(small)
    assert len(after) > 400
    assert [(what, look) for what, _, _, look in after] == [(what, look) for what, _, _, look in before]
    np.testing.assert_allclose([place[1:3] for place in after], [place[1:3] for place in before], atol=0.01)
