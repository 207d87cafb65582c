"""The report page in a real browser: from a file, with and without its script, dark, light, narrow, wide, printed."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

# What the eye needs: WCAG 2.2, 1.4.3 (AA).
CONTRAST, CONTRAST_OF_LARGE = 4.5, 3.0

# Text and background of each element that holds text of its own and is seen: WCAG's ratio of their luminances.
CONTRASTS = """() => {
  const part = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r / 255) + 0.7152 * part(g / 255) + 0.0722 * part(b / 255);
  const read = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(read(getComputedStyle(at).backgroundColor));
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return layers.reduce((below, layer) => over(layer, below), dark ? [18, 18, 18] : [255, 255, 255]);
  };
  const found = [];
  for (const node of document.body.querySelectorAll("*")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || ["SCRIPT", "STYLE", "title", "style"].includes(node.tagName) || !node.checkVisibility()) continue;
    if (!node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const size = parseFloat(style.fontSize);
    const inSvg = node instanceof SVGElement;
    const below = behind(node);
    const colour = over(read(inSvg ? style.fill : style.color), below);
    const [a, b] = [light(colour), light(below)].sort((x, y) => y - x);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const text = `${node.tagName}: ${node.textContent.trim().slice(0, 40)}`;
    found.push({ ratio: (a + 0.05) / (b + 0.05), large, text });
  }
  return found;
}"""

UNFOLD = "() => document.querySelectorAll('details').forEach((node) => { node.open = true; })"

# Each figure's picture: how large it is drawn, and whether there is anything in it.
PICTURES = """() => [...document.querySelectorAll('figure')].map((figure) => {
  const picture = figure.querySelector('.plot > svg, :scope > svg, :scope > * > svg, img');
  const { width, height } = picture.getBoundingClientRect();
  return { name: figure.querySelector('figcaption')?.textContent ?? '', width, height,
           loaded: picture.tagName !== 'IMG' || picture.naturalWidth > 0 };
})"""

# The marks of a figure that has words for them, where they are on the screen.
MARKS = """(figure) => {
  const tips = JSON.parse(figure.dataset.tips);
  return Object.entries(tips.marks).flatMap(([group, texts]) => {
    const uses = [...document.getElementById(`${figure.dataset.figure}-${group}`).querySelectorAll('use')];
    const method = tips.methods[Number(group.split('-').pop())];
    return texts.split('\\n').map((text, k) => {
      const box = uses[k].getBoundingClientRect();
      return { method, text, x: box.x + box.width / 2, y: box.y + box.height / 2 };
    });
  });
}"""


def test_it_loads_from_a_file_and_asks_for_nothing_else(report: Path, open_page: Callable, screenshots: Path) -> None:
    opened = open_page(report.as_uri())
    opened.page.evaluate(UNFOLD)
    opened.page.wait_for_load_state("networkidle")
    assert opened.said == []
    assert [address for address in opened.asked if not address.startswith("data:")] == [report.as_uri()]
    pictures = opened.page.evaluate(PICTURES)
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture["loaded"], picture
        assert picture["width"] > 100, picture
        assert picture["height"] > 40, picture
    opened.page.screenshot(path=screenshots / f"page-{report.parents[1].name}-unfolded.png", full_page=True)


def test_marks_tell_what_they_are(report: Path, open_page: Callable, screenshots: Path) -> None:
    """Oracle: the words that the page was given, at the place where the browser has drawn the mark."""
    page = open_page(report.as_uri()).page
    page.evaluate(UNFOLD)
    figures = page.locator("figure[data-tips]:has(.plot)")
    assert figures.count() >= 2
    for index in range(figures.count()):
        figure = figures.nth(index)
        figure.scroll_into_view_if_needed()
        tip = figure.locator(".tip")
        expect(tip).to_be_hidden()
        marks = figure.evaluate(MARKS)
        for mark in [marks[0], marks[len(marks) // 2], marks[-1]]:
            mark = next(m for m in figure.evaluate(MARKS) if (m["method"], m["text"]) == (mark["method"], mark["text"]))
            page.mouse.move(mark["x"], mark["y"])
            expect(tip).to_be_visible()
            told = tip.inner_text()
            # several at one place are told together, up to some
            assert f"{mark['method']} {mark['text']}" in told or "more here" in told
        page.screenshot(path=screenshots / f"page-{report.parents[1].name}-tip-{index}.png")
        page.mouse.move(5, 5)
        expect(tip).to_be_hidden()
        figure.locator(".plot").focus()
        page.keyboard.press("ArrowRight")
        expect(tip).to_be_visible()
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()


def test_methods_are_switched_in_all_figures_at_once(report: Path, open_page: Callable) -> None:
    page = open_page(report.as_uri()).page
    page.evaluate(UNFOLD)
    shown = """([place, hidden]) => [...document.querySelectorAll('figure[data-tips] .plot svg g[id]')]
        .filter((group) => /-(mean|seeds|band|bars|cut)-\\d+$/.test(group.id))
        .filter((group) => group.id.endsWith(`-${place}`))
        .every((group) => (getComputedStyle(group).display === 'none') === hidden)"""
    first = page.locator("figure[data-tips]").first
    tips = json.loads(first.get_attribute("data-tips") or "")
    assert page.evaluate(shown, [0, False])
    button = first.locator(".controls button").nth(0)
    assert tips["methods"][0] in button.inner_text()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate(shown, [0, True])
    assert page.evaluate(shown, [1, False])
    others = page.locator("figure[data-tips] .controls button[aria-pressed]").filter(has_text=tips["methods"][0])
    assert {others.nth(k).get_attribute("aria-pressed") for k in range(others.count())} == {"false"}
    every = first.locator(".controls .all")
    expect(every).to_have_text("Show all")
    every.click()
    assert page.evaluate(shown, [0, False])
    every.click()
    assert all(page.evaluate(shown, [k, True]) for k in range(len(tips["methods"])))


def test_without_scripts_figures_are_whole_and_nothing_is_dead(
    report: Path, open_page: Callable, screenshots: Path
) -> None:
    page = open_page(report.as_uri(), java_script_enabled=False).page
    assert page.locator("button, input, select, .controls, .tip").count() == 0
    figures = page.locator("figure[data-tips]")
    assert figures.count() >= 2
    for index in range(figures.count()):
        if not figures.nth(index).is_visible():
            continue  # in a folded part
        box = figures.nth(index).locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 100
        name = figures.nth(index).get_attribute("data-figure")
        assert page.locator(f"[id='{name}-legend']").is_visible()
    folded = page.locator("details:not([open]) > summary:visible")
    while folded.count():
        folded.first.click()
    assert page.locator("details:not([open])").count() == 0
    page.screenshot(path=screenshots / f"page-{report.parents[1].name}-no-script.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_colour_schemes(
    report: Path, open_page: Callable, screenshots: Path, scheme: str
) -> None:
    page = open_page(report.as_uri(), color_scheme=scheme).page
    page.screenshot(path=screenshots / f"page-{report.parents[1].name}-{scheme}.png", full_page=True)
    page.evaluate(UNFOLD)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    assert [item for item in found if item["ratio"] < (CONTRAST_OF_LARGE if item["large"] else CONTRAST)] == []


@pytest.mark.parametrize("width", [375, 1400])
def test_nothing_is_wider_than_the_window(report: Path, open_page: Callable, screenshots: Path, width: int) -> None:
    page = open_page(report.as_uri(), viewport={"width": width, "height": 800}).page
    page.screenshot(path=screenshots / f"page-{report.parents[1].name}-{width}.png", full_page=True)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("window.scrollTo(10000, 0)")
        assert page.evaluate("window.scrollX") == 0
        page.evaluate(UNFOLD)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_prints(report: Path, open_page: Callable, screenshots: Path, scheme: str) -> None:
    """All of it, what is folded too."""
    page = open_page(report.as_uri(), color_scheme=scheme).page
    assert page.locator("details:not([open])").count() > 0
    folded = page.evaluate("() => [...document.querySelectorAll('details:not([open]) li')].map((n) => n.textContent)")
    path = screenshots / f"page-{report.parents[1].name}-{scheme}.pdf"
    page.pdf(path=path, format="A4")
    assert path.read_bytes().count(b"/Type /Page\n") + path.read_bytes().count(b"/Type /Page>") >= 2
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext to look into the PDF")
    printed = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True).stdout
    words = set(printed.split())
    assert folded
    for text in folded:
        missing = [word for word in text.split() if word.isalpha() and word not in words]
        assert missing == [], text


def test_contrast_is_measured_as_wcag_does(open_page: Callable) -> None:
    """Against ratios that are known: black on white is 21, #777777 on white 4.48 and so just too little."""
    page = open_page("about:blank").page
    page.set_content('<p>black</p><p style="color: #777777">grey</p><div style="background: #000"><p>dark</p></div>')
    assert [round(item["ratio"], 2) for item in page.evaluate(CONTRASTS)] == [21.0, 4.48, 1.0]
