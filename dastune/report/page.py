"""The report page: report/index.html and its figures and tables, remade from a study's folder alone."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from dastune.folder import StudyFolder
from dastune.report.combined import markdown, write_csv, write_external_csv
from dastune.report.devices import unlike
from dastune.report.files import PAGE, remade
from dastune.report.markup import Markup, element, joined
from dastune.report.results import Results, read_results
from dastune.report.sections.accuracy import accuracy, accuracy_tables, external, external_tables
from dastune.report.sections.anytime import anytime, anytime_tables
from dastune.report.sections.comparisons import comparisons, comparisons_tables
from dastune.report.sections.costs import costs, costs_tables
from dastune.report.sections.head import answers, head
from dastune.report.sections.learned import learned_tables, what_was_learned
from dastune.report.sections.noise import noise, noise_tables
from dastune.report.sections.ops import ops_tables
from dastune.report.sections.policies import policies
from dastune.report.sections.provenance import missing, provenance, provenance_tables
from dastune.report.sections.receptive import receptive, receptive_tables
from dastune.report.sections.table10 import table10, table10_tables
from dastune.report.sections.table11 import table11, table11_tables
from dastune.report.sections.training import training, training_tables
from dastune.report.table import Table


def _no_tables(results: Results) -> list[Table]:
    return []


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: its id in the page's address.
        title: in the table of contents.
        markup: what it shows, headings included; of nothing there is no section.
        tables: those that it shows, each of which gets files of its own in tables/.
        compares: whether it is left out where a study has nothing but published policies.
    """

    name: str
    title: str
    markup: Callable[[Results], Markup]
    tables: Callable[[Results], list[Table]] = _no_tables
    compares: bool = True


# in the order of the page; head and answers stand before them
SECTIONS = (
    Section("accuracy", "Accuracy", accuracy, accuracy_tables),
    Section("published", "Published policies", external, external_tables, compares=False),
    Section("table10", "Table 10", table10, table10_tables),
    Section("receptive", "Receptive fields", receptive, receptive_tables),
    Section("table11", "Table 11", table11, table11_tables),
    Section("comparisons", "Comparisons", comparisons, comparisons_tables),
    Section("anytime", "Over charged time", anytime, anytime_tables),
    Section("noise", "Noise ops", noise, noise_tables),
    Section("learned", "What was learned", what_was_learned, learned_tables),
    Section("policies", "Found policies", policies, ops_tables),
    Section("training", "Final trainings", training, training_tables),
    Section("costs", "Costs", costs, costs_tables, compares=False),
    Section("provenance", "Provenance", provenance, provenance_tables, compares=False),
    Section("missing", "Failed or missing", missing, compares=False),
)


def write_report(folder: StudyFolder, output: Path | None = None, price_per_hour: float | None = None) -> Path:
    """Write the report of `folder` and return the path of its page. The same rows give the same bytes.

    A study that still runs, or has failures, gets a page that says what is missing. One of published policies alone has
    nothing to compare, and no figures.

    Args:
        output: the folder to write to; None: the study's own, `folder.report`.
        price_per_hour: what a device costs, for the table of costs; None: no prices.

    Raises:
        UserError: a row does not have the fields of this version, or `output` cannot be written.
    """
    output = output or folder.report
    with remade(output) as new:
        write_page(read_results(folder, new, price_per_hour))
    return output / PAGE


def write_page(results: Results) -> None:
    """Write the page of a study, with all that belongs to it, to `results.output`, an empty folder."""
    output, found, axis = results.output, results.cells, results.axis
    if results.compares:
        write_csv(found, results.found, output / "tables.csv", axis)
    if results.published:
        write_external_csv(results.published, output / "external.csv", axis)
    (output / "tables.md").write_bytes(
        encoded(markdown(found, results.found, results.published, unlike(results.models), axis))
    )
    sections = [section for section in SECTIONS if results.compares or not section.compares]
    shown = [(section, markup) for section in sections if (markup := section.markup(results))]
    for section, _ in shown:
        write_tables(section.tables(results), output)
    parts = [head(results), _contents([section for section, _ in shown]), answers(results)]
    parts += [element("section", markup, id=section.name) for section, markup in shown]
    (output / PAGE).write_bytes(document(f"{results.name}: comparison of augmentation searches", parts))


def write_tables(tables: Sequence[Table], output: Path) -> None:
    """Write the files of each table."""
    for name, text in ((name, text) for table in tables for name, text in table.files().items()):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(encoded(text))


def document(title: str, parts: Sequence[Markup]) -> bytes:
    """Return a whole page. It loads nothing, and runs no script but its own, whatever a study's folder holds."""
    package = files("dastune.report")
    style, script = (package.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            element("style", Markup(style)),
        ]
    )
    # the script last: the page is painted before it runs
    body = element("body", element("main", joined(parts)), element("script", Markup(script)))
    return encoded(f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n')


def encoded(text: str) -> bytes:
    """Return UTF-8; half of a surrogate pair, which JSON and file names can hold and UTF-8 cannot, is written out."""
    return text.encode("utf-8", "backslashreplace")


def _contents(sections: Sequence[Section]) -> Markup:
    """Return links to the sections."""
    links = [element("li", element("a", section.title, href=f"#{section.name}")) for section in sections]
    return element("nav", element("ul", *links), aria_label="Contents")
