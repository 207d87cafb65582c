"""Each mark of a figure has its text, in the order in which it is drawn, whatever the names are."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from dastune.report.curves import Series, linear
from dastune.report.figures import accuracy_figure, curves_figure, noise_mass_figure, save, sd_figure
from dastune.report.interactive import Tips, curve_tips, level_tips
from dastune.report.results import read_results
from dastune.report.sections.parts import figure
from dastune.report.stats import cells

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def found(make_study, search_row, final_row):
    folder = make_study(levels=(0, 4, 8), failed=("random-n4-s1",), without=("das-n8-s0", "das-n8-s1", "das-n8-s2"))
    searches = [*folder.search_rows(), search_row("untrained")]
    return cells(searches, [*folder.final_rows(), final_row(0.5, "one_seed", 8)])


def marks(path):
    """Return group -> (y in points from above) of its marks, as the SVG has them."""
    groups = ElementTree.parse(path).getroot().iter(f"{SVG}g")
    return {
        group.get("id"): [float(use.get("y")) for use in group.iter(f"{SVG}use")]
        for group in groups
        if re.fullmatch(r"(mean|seeds)-\d+", group.get("id", ""))
    }


def numbers(texts):
    """Return the first number behind the colon of each text."""
    return [float(re.search(r": (?:sd )?([\d.]+)", text)[1]) for text in texts]


@pytest.mark.parametrize(
    ("draw", "mean_text", "seeds"),
    [
        (accuracy_figure, lambda cell: f"{100 * cell.mean:.6f}", lambda cell: cell.accuracies),
        (noise_mass_figure, lambda cell: f"{100 * cell.noise_mass:.6f}", lambda cell: cell.noise_masses),
        (sd_figure, lambda cell: f"{100 * cell.sd:.6f}", None),
    ],
)
def test_texts_are_in_the_order_drawn(found, tmp_path, draw, mean_text, seeds):
    save(draw(found), tmp_path / "drawn")
    drawn, tips = marks(tmp_path / "drawn.svg"), level_tips(found, mean_text, seeds)
    assert {name for name, texts in tips.marks.items() if texts} == drawn.keys()
    for name, heights in drawn.items():
        texts = tips.marks[name]
        assert len(texts) == len(heights)
        # the higher the number, the higher the mark: y counts from above
        order = sorted(range(len(texts)), key=lambda k, name=name: numbers(tips.marks[name])[k])
        assert all(heights[low] >= heights[high] - 0.02 for low, high in itertools.pairwise(order))


def test_curves_too(tmp_path):
    many = [Series(np.array([0.0, 5, 9]), np.array([3, 1, 0.5])), Series(np.array([1.0, 9]), np.array([2.0, 1]))]
    bundles = [("a", linear(many)), ("b", None)]
    save(curves_figure(bundles, ("x", "y"), "straight"), tmp_path / "drawn")
    tips = curve_tips(bundles, "epoch {:.0f}".format, "{:.2f}".format, " nats")
    assert list(tips.methods) == ["a", "b"]
    assert tips.marks["mean-0"][0] == "epoch 1: 2.30 ± 0.42 nats, n=2"
    assert tips.marks["mean-0"][-1] == "epoch 9: 0.75 ± 0.35 nats, n=2"
    assert len(tips.marks["mean-0"]) == len(marks(tmp_path / "drawn.svg")["mean-0"])


class Attributes(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.data = [], {}

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "figure":
            self.data = dict(attributes)


def test_names_are_data_on_the_page(make_study):
    folder = make_study()
    results = read_results(folder)
    save(accuracy_figure(results.cells), results.output / "figure9")
    names = ['</script><img src="x" onerror=alert(1)>', "\ud800", '"]}', "a\nb", "\N{LEFT-TO-RIGHT OVERRIDE}"]
    page = Attributes()
    page.feed(figure(results, "figure9", "label", "caption", Tips(names, {"mean-0": ["one", "two"]}, names[0])))
    assert "img" not in page.tags
    assert "script" not in page.tags
    assert page.data["data-figure"] == "figure9"
    read = json.loads(page.data["data-tips"])
    assert read == {"methods": names, "marks": {"mean-0": "one\ntwo"}, "reference": names[0]}


def test_a_figure_without_tips_asks_for_no_script(make_study):
    results = read_results(make_study())
    save(accuracy_figure(results.cells), results.output / "figure9")
    assert "data-" not in figure(results, "figure9", "label", "caption")
