"""Figures draw what the cells say, and the same cells give the same bytes."""

import numpy as np
import pytest

from dastune.report.figures import figure9, noise_mass_figure, save
from dastune.report.stats import cells


@pytest.fixture
def found(make_study):
    folder = make_study(levels=(0, 4, 8))
    return cells(folder.search_rows(), folder.final_rows())


def line(figure, gid):
    (match,) = [line for line in figure.axes[0].lines if line.get_gid() == gid]
    return match.get_xydata()


@pytest.mark.parametrize("index", range(4))
def test_lines_are_the_means_and_every_seed_is_a_point(found, index):
    figure = figure9(found)
    mine = found[3 * index : 3 * index + 3]
    np.testing.assert_allclose(line(figure, f"mean-{index}"), [(cell.noise_level, 100 * cell.mean) for cell in mine])
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
    drawn = {line.get_gid(): line for line in figure9(found).axes[0].lines}
    assert drawn["seeds-0"].get_markersize() == pytest.approx(size)
    assert (drawn["seeds-0"].get_zorder() > drawn["mean-0"].get_zorder()) is over


def test_the_band_is_mean_and_sd(found):
    band = figure9(found).axes[0].collections[0].get_paths()[0].vertices
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
    bands, lines = figure9(cells([], finals)).axes[0].collections
    assert sorted({x for path in bands.get_paths() for x, _ in path.vertices if np.ptp(path.vertices[:, 0])}) == shaded
    assert [segment[0, 0] for segment in lines.get_segments()] == bars


def test_noise_mass_with_its_uniform_share(found):
    figure = noise_mass_figure(found)
    np.testing.assert_allclose(line(figure, "mean-0")[:, 1], [100 * cell.noise_mass for cell in found[:3]])
    np.testing.assert_allclose(line(figure, "uniform"), [(0, 20), (4, 20), (8, 20)])
    assert "all ops equally likely" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_axes_and_legend(found):
    figure = figure9(found)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "Noise ops in the search space"
    assert axes.get_ylabel() == "Test accuracy (%)"
    assert axes.get_title() == ""
    assert list(axes.get_xticks()) == [0, 4, 8]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["das", "rand_augment", "random", "none"]
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 <= axes.get_tightbbox().y0


@pytest.mark.parametrize("draw", [figure9, noise_mass_figure])
def test_the_same_cells_give_the_same_bytes(found, tmp_path, draw):
    for run in ("a", "b"):
        save(draw(found), tmp_path / run / "figure9")
    for extension in ("png", "svg", "pdf"):
        one, other = ((tmp_path / run / f"figure9.{extension}").read_bytes() for run in ("a", "b"))
        assert one == other
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_nothing_one_level_one_seed_and_odd_names(search_row, final_row, tmp_path):
    save(figure9([]), tmp_path / "empty")
    save(noise_mass_figure([]), tmp_path / "empty")
    save(figure9(cells([search_row()], [])), tmp_path / "no_finals")
    odd = ["_hidden", "$x^{", "\N{CJK UNIFIED IDEOGRAPH-65E5}<b>", *(f"{'long_' * 8}{place}" for place in range(6))]
    found = cells([search_row(name) for name in odd], [final_row(0.9, name) for name in odd])
    figure = figure9(found)
    save(figure, tmp_path / "odd")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(labels)) == len(odd)
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width
