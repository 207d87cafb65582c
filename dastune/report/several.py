"""Several studies in one report: a page that compares them, and each study's own page in a folder beside it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dastune.errors import UserError
from dastune.folder import SAFE_NAME, StudyFolder
from dastune.report.axis import NOISE, Axis
from dastune.report.devices import ran_on
from dastune.report.files import NEW, PAGE, is_report, remade
from dastune.report.markup import Markup, bullets, element, inline_svg
from dastune.report.page import document, write_page, write_tables
from dastune.report.protocol import budget_text, data_text, model_text, seeds_text
from dastune.report.results import Results, read_results
from dastune.report.sections.head import findings, setting, state
from dastune.report.sections.parts import described
from dastune.report.table import FOLDER
from dastune.report.table11 import table11
from dastune.report.tables import accuracy_text, methods_of

LONGEST_NAME = 90  # of a study's folder in the report: room for what tells it from another of its name

Study = tuple[str, Results]
"""A study and the name of its folder in the report, which no other one has."""

# what studies are compared in before their results
_SETTINGS: tuple[tuple[str, Callable[[Results], str]], ...] = (
    ("Data", lambda results: data_text(results.study)),
    ("Networks", lambda results: model_text(results.study)),
    ("Budgets of a search", lambda results: budget_text(results.study)),
    ("Seeds", lambda results: seeds_text(results.study)),
    ("Devices", lambda results: ran_on(results.models).removesuffix(".") or "not said"),
)


def write_comparison(folders: Sequence[StudyFolder], output: Path, price_per_hour: float | None = None) -> Path:
    """Write output/index.html, which compares the studies, and output/NAME/index.html of each; return the first.

    Nothing is written to the studies' folders. NAME is a study's folder's, or "study" where that is no safe name.

    Raises:
        UserError: a study is given twice, or `output` is not fit (`check_output`), or as `write_report`.
    """
    roots = [folder.root.resolve() for folder in folders]
    for folder, root in zip(folders, roots, strict=True):
        if roots.count(root) > 1:
            raise UserError(f"{folder.root}: is given twice; give each study once")
    names = _names(folders)
    check_output(output, names)
    with remade(output) as new:
        studies = []
        for name, folder in zip(names, folders, strict=True):
            (new / name).mkdir()
            results = read_results(folder, new / name, price_per_hour)
            write_page(results)
            studies.append((name, results))
        table = table11(studies)
        write_tables([table] if table else [], new)
        parts = [
            element("h1", f"{len(studies)} studies compared"),
            *(_study(name, results) for name, results in studies),
            element("section", *_differences(studies), id="differences"),
            element("section", element("h2", "Table 11"), table.html() if table else "No results yet.", id="table11"),
            *_figures(studies),
        ]
        (new / PAGE).write_bytes(document(f"{', '.join(names)}: comparison of studies", parts))
    return output / PAGE


def check_output(output: Path, names: Iterable[str] = ()) -> None:
    """Refuse a folder that a report must not be written to; `names` are those of folders that it is to have.

    Raises:
        UserError: it is a file, a study's folder or in one, or holds files but no report.
    """
    where = f"--output {output}"
    try:
        target = output.resolve()
        if target.exists() and not target.is_dir():
            raise UserError(f"{where}: is a file; give a folder")
        for place in (target, *target.parents, *(target / name for name in names)):
            if StudyFolder(place).study.exists():
                raise UserError(f"{where}: would write into {place}, a study's folder; give another folder")
        held = target.is_dir() and any(not path.name.startswith(NEW) for path in target.iterdir())
        if held and not is_report(target):
            raise UserError(f"{where}: holds files, and no report; give a new or an empty folder, or an old report's")
    except OSError as error:
        raise UserError(f"{where}: cannot be used ({error.strerror})") from error


def _names(folders: Sequence[StudyFolder]) -> list[str]:
    """Return a safe name for each study; no two are the same, nor are they on file systems that know no capitals."""
    taken, names = {FOLDER, PAGE}, []
    for folder in folders:
        own = folder.root.name
        stem = own[:LONGEST_NAME].rstrip(".") if SAFE_NAME.fullmatch(own) else "study"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _study(name: str, results: Results) -> Markup:
    """Return a study's answer, with the way to its own page."""
    title = element("h2", element("a", name, href=f"{name}/{PAGE}"))
    return element("section", title, setting(results), state(results), findings(results), id=f"study-{name}")


def _differences(studies: Sequence[Study]) -> Sequence[Markup]:
    """Return in what the studies differ besides their results."""
    lines = []
    for title, text in _SETTINGS:
        texts = [text(results) for _, results in studies]
        if len(set(texts)) > 1:
            told = "; ".join(f"{name}: {of}" for (name, _), of in zip(studies, texts, strict=True))
            lines.append(f"{title}: {told}.")
    if not lines:
        return [element("h2", "What differs"), element("p", "Nothing in data, network, budget, seeds and devices.")]
    note = "Accuracies of studies that differ in these are not to be compared as if only the method had changed."
    return [element("h2", "What differs"), bullets(lines), element("p", note, class_="note")]


def _figures(studies: Sequence[Study]) -> list[Markup]:
    """Return Figure 9, or 10, of each study that has one; those over the same axis beside each other."""
    axes = dict.fromkeys(results.axis for _, results in studies)
    return [section for axis in axes for section in _figures_over(axis, studies)]


def _figures_over(axis: Axis, studies: Sequence[Study]) -> list[Markup]:
    shown, methods = [], set()
    for number, (name, results) in enumerate(studies):
        if results.axis is not axis:
            continue
        methods.add(tuple(methods_of(results.cells)))
        path = results.output / f"{axis.figure}.svg"
        if path.is_file():
            words = described(results.cells, accuracy_text, axis)
            label = f"Line chart of test accuracy over the {axis.number}, {name}. {words}"
            svg = inline_svg(path.read_text(encoding="utf-8"), f"study{number}", label)
            caption = element("figcaption", element("a", name, href=f"{name}/{PAGE}#accuracy"))
            shown.append(element("figure", caption, svg))
    if not shown:
        return []
    note = "Mean and sd of test accuracy over search seeds; the studies' own pages tell more."
    if len(methods) > 1:
        note += " The studies have other methods, so a colour need not mean the same method in two figures."
    heading = element("h2", f"Test accuracy over the {axis.number}")
    name = "accuracy" if axis is NOISE else f"accuracy-{axis.field}"
    return [element("section", heading, element("p", note), element("div", *shown, class_="side"), id=name)]
