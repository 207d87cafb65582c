"""The report page: report/index.html and its figures and tables, remade from a study's folder alone."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dastune.folder import StudyFolder, write_atomic
from dastune.report import figures
from dastune.report.devices import unlike
from dastune.report.markup import Markup, element, joined
from dastune.report.results import read_results
from dastune.report.sections.accuracy import accuracy, external
from dastune.report.sections.head import answers, head
from dastune.report.sections.noise import noise
from dastune.report.sections.policies import found_policies, policies
from dastune.report.sections.provenance import missing, provenance
from dastune.report.tables import markdown, write_csv, write_external_csv

# no scripts and nothing from elsewhere, whatever a study's folder holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(folder: StudyFolder) -> Path:
    """Write the report of `folder` and return the path of its page. The same rows give the same bytes.

    A study that still runs, or has failures, gets a page that says what is missing. One of published policies alone has
    nothing to compare, and no figures.

    Raises:
        UserError: a row does not have the fields of this version.
    """
    results = read_results(folder)
    output, found = results.output, results.cells
    if results.compares:
        write_csv(found, results.found, output / "tables.csv")
        figures.save(figures.figure9(found), output / "figure9")
        figures.save(figures.noise_mass_figure(found), output / "noise_mass")
    if results.published:
        write_external_csv(results.published, output / "external.csv")
    write_atomic(output / "tables.md", markdown(found, results.found, results.published, unlike(results.models)))
    parts = [head(results), answers(results)]
    if results.compares:
        parts.append(accuracy(results))
    parts.append(external(results))
    if results.compares:
        parts += [noise(results), found_policies(results), policies(results)]
    parts += [provenance(results), missing(results)]
    # the page last: whoever sees it finds its figures and tables beside it
    page = output / "index.html"
    # half of a surrogate pair, which JSON can hold and UTF-8 cannot, is written out
    write_atomic(page, _document(results.name, parts).encode("utf-8", "backslashreplace"))
    return page


def _document(name: str, parts: Sequence[Markup]) -> str:
    style = files("dastune.report").joinpath("page.css").read_text(encoding="utf-8")
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", f"{name}: comparison of augmentation searches"),
            element("style", Markup(style)),
        ]
    )
    body = element("body", element("main", joined(parts)))
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'
