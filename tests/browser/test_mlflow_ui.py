"""MLflow's UI on a real study: from the data set to the comparison by clicks alone, no word typed.

Oracle of what it shows: the study's own rows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from dastune.folder import StudyFolder

pytestmark = pytest.mark.browser

PATIENCE = 60_000.0  # milliseconds; MLflow's server is not quick

# What a line chart has drawn, by Plotly's own account: its lines, without the bands around them.
LINES = """(card) => card.querySelector('.js-plotly-plot').data
  .filter((trace) => trace.mode?.includes('markers') && trace.hoverinfo !== 'skip')
  .map((trace) => [...trace.x].map((x, k) => [x, trace.y[k]]))"""


@pytest.fixture
def page(ui: Any, open_page: Callable[..., Any]) -> Page:
    """MLflow's UI as somebody opens it for the first time, with what it opens by itself closed again."""
    page: Page = open_page(f"http://127.0.0.1:{ui.port}", viewport={"width": 1400, "height": 1000}).page
    page.set_default_timeout(PATIENCE)
    page.add_locator_handler(page.get_by_role("button", name="Got it"), lambda button: button.click())
    close = page.get_by_role("button", name="Close", exact=True)
    page.add_locator_handler(page.get_by_placeholder("Ask a question..."), lambda _: close.last.click())
    return page


def seen(locator: Locator) -> Locator:
    expect(locator).to_be_visible(timeout=PATIENCE)
    return locator


def open_runs(page: Page) -> None:
    """Go from the front page to the runs of the experiment."""
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name="real", exact=True).click()
    page.get_by_text("Model training", exact=True).click()
    seen(page.get_by_text("matching runs"))


def choose_view(page: Page, name: str) -> None:
    page.get_by_test_id("saved-views-trigger").click()
    page.get_by_role("menuitem").filter(has_text=name).click()
    expect(page.get_by_test_id("search-box")).to_have_value("tags.stage = 'search'", timeout=PATIENCE)


def show_charts(page: Page) -> None:
    page.locator("label:has(input[value=CHART])").click()


def card(page: Page, title: str) -> Locator:
    return seen(page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=title).first)


def rows(page: Page) -> list[tuple[str, dict[str, str]]]:
    """Return name and cells, by column, of the rows of the table of runs."""
    found = page.evaluate("""() => {
      const rows = {};
      for (const row of document.querySelectorAll('.ag-row[row-id]')) {
        const cells = rows[row.getAttribute('row-index')] ??= {};
        for (const cell of row.querySelectorAll('[col-id]')) cells[cell.getAttribute('col-id')] = cell.innerText;
      }
      return Object.values(rows);
    }""")
    return [(cells["attributes.`Run Name`"], cells) for cells in found]


def lines_of(study: StudyFolder, value: Callable[[str, int], float]) -> list[Any]:
    """Return [[level, value] ...] of each method, in order of the values."""
    searches = study.search_rows()
    methods, found = {row.method for row in searches}, []
    for method in methods:
        levels = sorted({row.noise_level for row in searches if row.method == method})
        found.append([[level, pytest.approx(value(method, level), abs=1e-12)] for level in levels])
    return found


def same(lines: list[Any], expected: list[Any]) -> bool:
    """Say whether these are the expected lines, in any order."""
    return len(lines) == len(expected) and all(line in lines for line in expected)


def accuracy(study: StudyFolder) -> Callable[[str, int], float]:
    finals = study.final_rows()
    return lambda method, level: fmean(
        row.test_accuracy for row in finals if (row.method, row.noise_level) == (method, level)
    )


def noise_mass(study: StudyFolder) -> Callable[[str, int], float]:
    searches = study.search_rows()
    return lambda method, level: fmean(
        row.noise_mass for row in searches if (row.method, row.noise_level) == (method, level)
    )


def test_the_data_set_of_the_runs(page: Page, real_study: StudyFolder, screenshots: Path) -> None:
    open_runs(page)
    choose_view(page, "dastune: searches")
    digest = json.loads(real_study.env.read_text())["data_fingerprint"]
    page.locator(".ag-row").get_by_text(f"digits ({digest})").first.click()
    drawer = seen(page.get_by_role("dialog").filter(has_text="Data details"))
    for text in (digest, "classes: 10"):
        seen(drawer.get_by_text(text, exact=True).first)
    page.screenshot(path=screenshots / "mlflow-data-set.png")


def test_accuracy_over_the_noise_level_in_three_clicks(page: Page, real_study: StudyFolder, screenshots: Path) -> None:
    open_runs(page)
    choose_view(page, "dastune: methods")
    show_charts(page)
    for title, value in (("test_accuracy", accuracy), ("noise_mass", noise_mass)):
        drawn = card(page, f"over_noise_level/{title}")
        seen(drawn.locator(".js-plotly-plot .legendlines, .js-plotly-plot .scatterlayer .trace").first)
        assert same(drawn.evaluate(LINES), lines_of(real_study, value(real_study)))
        assert "das" in drawn.inner_text()
    page.screenshot(path=screenshots / "mlflow-methods.png")


def test_the_link_of_dastune_ui_opens_the_comparison(
    ui: Any, open_page: Callable[..., Any], real_study: StudyFolder
) -> None:
    page = open_page(ui.address).page
    drawn = card(page, "over_noise_level/test_accuracy")
    seen(drawn.locator(".js-plotly-plot .scatterlayer .trace").first)
    assert same(drawn.evaluate(LINES), lines_of(real_study, accuracy(real_study)))


def test_means_by_method_and_level(page: Page, real_study: StudyFolder, screenshots: Path) -> None:
    open_runs(page)
    choose_view(page, "dastune: means")
    seen(page.get_by_text("Group: method: das, noise_level: 4"))
    page.screenshot(path=screenshots / "mlflow-means.png")
    searches = real_study.search_rows()
    shown = {}
    for name, cells in rows(page):
        method, _, level = name.partition("Group: method: ")[2].partition("\n")[0].partition(", noise_level: ")
        shown[method, int(level)] = float(cells["metrics.`test_accuracy`"].split()[0])
    mean = accuracy(real_study)
    assert shown == {
        key: pytest.approx(mean(*key), abs=1e-12) for key in {(row.method, row.noise_level) for row in searches}
    }


def test_parallel_coordinates_and_the_comparison_of_runs(
    page: Page, real_study: StudyFolder, screenshots: Path
) -> None:
    open_runs(page)
    choose_view(page, "dastune: searches")
    show_charts(page)
    parallel = card(page, "Parallel Coordinates")
    for axis in ("method", "noise_level", "noise_mass", "test_accuracy"):
        seen(parallel.get_by_text(axis, exact=True))
    seen(card(page, "noise_level vs. test_accuracy").locator(".js-plotly-plot .scatterlayer .trace").first)
    page.screenshot(path=screenshots / "mlflow-searches.png")
    page.locator("label:has(input[value=TABLE])").click()
    by_name = {row.id: row for row in real_study.search_rows()}
    chosen = ["das-n4-s0", "none-n0-s1"]
    for name in chosen:
        page.locator(".ag-pinned-left-cols-container .ag-row").filter(has_text=name).locator(
            "input[type=checkbox]"
        ).first.check()
    page.get_by_role("button", name="Compare").click()
    seen(page.get_by_text("Comparing 2 Runs from 1 Experiment"))
    for name in chosen:
        seen(page.get_by_role("link", name=name).or_(page.get_by_text(name, exact=True)).first)
        assert f"{by_name[name].noise_mass:.3f}".rstrip("0").rstrip(".") in page.locator("body").inner_text()
    page.screenshot(path=screenshots / "mlflow-compare.png", full_page=True)
    for name in ("method", "noise_level", "search_seed"):  # the axes of its own parallel coordinates
        seen(page.locator(".du-bois-light-select-selection-item, .ant-select-selection-item").get_by_text(name))
