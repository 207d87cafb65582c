"""The report page: report/index.html and its figures and tables, remade from a study's folder alone."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dastune.folder import StudyFolder, write_atomic
from dastune.report import figures, sections
from dastune.report.devices import device_models, unlike
from dastune.report.external import apart, externals
from dastune.report.found import findings
from dastune.report.markup import Markup, element, joined
from dastune.report.plan import progress, read_plan, rows_in_order
from dastune.report.stats import cells
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
    plan = read_plan(folder.study)
    searches, finals = rows_in_order(folder, plan)
    state = progress(plan, searches, finals)
    everything = cells(searches, finals)
    found, elsewhere = apart(everything, plan)
    published = externals(elsewhere, plan)
    own, _ = apart(searches, plan)
    results = findings(folder, own, plan)
    compares = bool(found) or (plan.compares if plan else not published)
    if compares:
        write_csv(found, results, folder.report / "tables.csv")
        figures.save(figures.figure9(found), folder.report / "figure9")
        figures.save(figures.noise_mass_figure(found), folder.report / "noise_mass")
    if published:
        write_external_csv(published, folder.report / "external.csv")
    models = device_models(folder)
    write_atomic(folder.report / "tables.md", markdown(found, results, published, unlike(models)))
    name = folder.root.name
    reached, searched = [], []
    if compares:
        reached = [sections.accuracy(folder, found)]
        searched = [
            sections.noise(folder, found),
            sections.found_policies(results),
            sections.policies(folder, own),
        ]
    parts = [
        sections.head(name, state, plan),
        sections.answers(everything, state, plan, models),
        *reached,
        sections.external(published),
        *searched,
        sections.provenance(folder),
        sections.missing(state),
    ]
    # the page last: whoever sees it finds its figures and tables beside it
    page = folder.report / "index.html"
    # half of a surrogate pair, which JSON can hold and UTF-8 cannot, is written out
    write_atomic(page, _document(name, parts).encode("utf-8", "backslashreplace"))
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
