"""The sections of the report page, each from cells, rows or files to markup."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dastune.errors import UserError, without_secrets
from dastune.folder import SearchRow, StudyFolder
from dastune.ops.table import OPS
from dastune.report.answer import answer
from dastune.report.devices import DeviceModel, device_models, ran_on, unlike
from dastune.report.external import External
from dastune.report.found import Found, policy_shares
from dastune.report.markup import Markup, bullets, element, inline_svg, joined, table
from dastune.report.plan import Plan, Progress
from dastune.report.stats import Cell
from dastune.report.tables import (
    DEFINITIONS,
    EXTERNAL_NOTE,
    EXTERNAL_TITLE,
    NOTHING,
    accuracy_text,
    count_text,
    duration,
    external_rows,
    few_children,
    found_rows,
    levels_of,
    methods_of,
    noise_text,
    ops_text,
    percent,
)

TOP_OPS = 5
FOLD_OVER = 12  # lists longer than this start folded


def head(name: str, state: Progress, plan: Plan | None) -> Markup:
    """Return the title and how many of how many results are in."""
    return joined([element("h1", name), _state(state, plan)])


def _state(state: Progress, plan: Plan | None) -> Markup:
    if plan is None:
        text = (
            f"{state.searches_in} searches and {state.finals_in} final trainings are in; "
            "how many the study asks for cannot be read from study.yaml."
        )
    else:
        failed = f"; {len(state.failed)} failed" if state.failed else ""
        text = (
            f"{state.searches_in} of {len(plan.searches)} searches and {state.finals_in} of {len(plan.finals)} final "
            f"trainings are in{failed}."
        )
    if state.complete:
        return element("p", text, class_="state")
    return element("p", f"Partial: {text}", class_="partial")


def answers(found: Sequence[Cell], state: Progress, plan: Plan | None, models: Sequence[DeviceModel] = ()) -> Markup:
    """Return the answer in sentences, and what it does not show. `models` are those of the devices it comes from."""
    result = answer(found, plan.methods if plan else None, partial=not state.complete)
    parts = [element("p", sentence, class_="answer") for sentence in result.findings]
    limits = [*result.limits, *([unlike(models)] if len(models) > 1 else [])]
    if limits:
        parts.append(element("section", element("h2", "What this does not show"), bullets(limits), class_="limits"))
    return joined(parts)


def accuracy(folder: StudyFolder, found: Sequence[Cell]) -> Markup:
    """Return Figure 9 and the table of its numbers with what they cost."""
    heading = element("h2", "Test accuracy over the number of noise ops")
    label = "Line chart of test accuracy in percent over the number of noise ops in the search space. " + _described(
        found, accuracy_text
    )
    caption = (
        "Lines: mean over search seeds (of the mean over training seeds). Shaded: mean ± sd, ddof = 1. Small marks: "
        "every search seed, set aside a little."
    )
    note = (
        "Percent, mean ± sd over n search seeds; under it the 95 % bootstrap interval of the mean. Charged: device "
        "time per search that counts against the budget. Failed searches count as missing."
    )
    return joined(
        [
            heading,
            _figure(folder, "figure9", label, caption),
            element("h2", "Accuracy and cost"),
            _level_table(found, ["accuracy", "charged"], _accuracy_cells),
            element("p", note, " Also as ", _link("tables.csv"), " and ", _link("tables.md"), ".", class_="note"),
        ]
    )


def _accuracy_cells(cell: Cell) -> list[str]:
    under = count_text(cell)
    if cell.interval is not None:
        under += f"; {percent(cell.interval[0])} to {percent(cell.interval[1])}"
    return [joined([accuracy_text(cell), element("small", under)], ""), duration(cell.charged_seconds)]


def external(published: Sequence[External]) -> Markup:
    """Return the table of published policies; nothing where the study has none."""
    if not published:
        return Markup("")
    titles, *body = external_rows(published)
    head = [element("th", title, scope="col") for title in titles]
    note = element("p", EXTERNAL_NOTE, " Also as ", _link("external.csv"), ".", class_="note")
    return joined(
        [element("h2", EXTERNAL_TITLE), element("div", table([head], body), class_="facts"), note],
    )


def noise(folder: StudyFolder, found: Sequence[Cell]) -> Markup:
    """Return the figure and the table of noise ops in the found policies."""
    label = "Line chart of the share of noise ops in the found policies over their number in the search space. "
    caption = (
        "Expected share of noise ops among the ops that a found policy applies. Below the dashed line a search took "
        "fewer of them than chance would."
    )
    return joined(
        [
            element("h2", "Noise ops in the found policies"),
            _figure(folder, "noise_mass", label + _described(found, noise_text), caption),
            _level_table(found, ["found / uniform"], lambda cell: [noise_text(cell)]),
            element("p", "Percent: share in the found policies / share if all ops were equally likely.", class_="note"),
        ]
    )


def found_policies(results: Sequence[Found]) -> Markup:
    """Return one table for each noise level of what its searches found, and what its columns mean."""
    parts = [element("h2", "What the searches found")]
    for level in sorted({result.noise_level for result in results}):
        (_, *titles), *body = found_rows([result for result in results if result.noise_level == level])
        head = [element("th", title, scope="col") for title in ("method", *titles)]
        parts += [element("h3", ops_text(level).capitalize()), table([head], body)]
    if len(parts) == 1:
        return joined([*parts, element("p", "No search is in yet.")])
    few = few_children(results)
    return joined([*parts, *([element("p", few)] if few else []), bullets(DEFINITIONS)])


def policies(folder: StudyFolder, searches: Sequence[SearchRow]) -> Markup:
    """Return one line per search: what its policy applies most."""
    lines = [_policy_line(folder, row) for row in searches]
    heading = element("h2", "Found policies")
    if not lines:
        return joined([heading, element("p", "No search is in yet.")])
    note = "Best validation accuracy seen by the search, and the ops that the policy applies most, by expected share."
    return joined([heading, element("p", note, class_="note"), _folded(f"{len(lines)} searches", lines, False)])


def _policy_line(folder: StudyFolder, row: SearchRow) -> Markup:
    seen = "no validation" if row.val_accuracy is None else f"validation {percent(row.val_accuracy)} %"
    return joined(
        [element("code", row.id), f"{seen}, {duration(row.charged_seconds)} charged: {_top_ops(folder, row)}"], " "
    )


def _top_ops(folder: StudyFolder, row: SearchRow) -> str:
    if row.status == "failed":
        return "failed"
    try:
        shares = policy_shares(folder, row)
    except UserError as error:
        return str(error)
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    top = ", ".join(
        f"{op}{' (noise)' if OPS[op].noise else ''} {percent(share, 0)} %" for op, share in ranked[:TOP_OPS]
    )
    return top + (f", and {len(ranked) - TOP_OPS} more" if len(ranked) > TOP_OPS else "")


def provenance(folder: StudyFolder) -> Markup:
    """Return the study as resolved, where it ran, and the commands to repeat it."""
    run_folder = shlex.quote(folder.root.name)
    study = without_secrets(_text(folder.study))
    facts = _facts(folder.env)
    devices = ran_on(device_models(folder))
    return joined(
        [
            element("h2", "Provenance"),
            *([element("p", devices)] if devices else []),
            element("p", "Run the study again: ", element("code", "dastune run study.yaml")),
            element("p", "Remake this page from its folder: ", element("code", f"dastune report {run_folder}")),
            element("h3", "study.yaml, as resolved"),
            element("pre", element("code", study), tabindex="0") if study else element("p", "study.yaml is missing."),
            element("h3", "Environment"),
            element("div", table([], facts), class_="facts")
            if facts
            else element("p", "env.json is missing or empty."),
        ]
    )


def missing(state: Progress) -> Markup:
    """Return what failed, what was cut short and what is still to come."""
    trainings = [f"{search}, training seed {seed}" for search, seed in state.missing_finals or ()]
    groups = [
        ("Failed searches, left out of every number", state.failed),
        ("Searches ended by the infrastructure before their budget was used, counted", state.cut),
        ("Searches not in yet", state.missing_searches or ()),
        ("Final trainings not in yet", trainings),
    ]
    parts = [_folded(f"{title}: {len(ids)}", list(ids), len(ids) <= FOLD_OVER) for title, ids in groups if ids]
    if not parts:
        known = state.missing_searches is not None
        text = "Nothing failed and nothing is missing." if known else "Nothing failed; what is missing is not known."
        parts = [element("p", text)]
    return joined([element("h2", "Failed or missing"), *parts])


def _folded(title: str, lines: Sequence[str], unfolded: bool) -> Markup:
    inner = joined([element("summary", title), bullets(lines)])
    return element("details", inner, open="") if unfolded else element("details", inner)


def _figure(folder: StudyFolder, name: str, label: str, caption: str) -> Markup:
    svg = (folder.report / f"{name}.svg").read_text(encoding="utf-8")
    links = joined([_link(f"{name}.{extension}") for extension in ("png", "svg", "pdf")], ", ")
    return element("figure", inline_svg(svg, name, label), element("figcaption", caption, " ", links))


def _link(file: str) -> Markup:
    return element("a", file, href=file)


def _described(found: Sequence[Cell], text: Callable[[Cell], str]) -> str:
    """Return the numbers of a figure in words, for those who cannot see it."""
    lines = []
    for method in methods_of(found):
        values = ", ".join(f"{text(cell)} at {cell.noise_level}" for cell in found if cell.method == method)
        lines.append(f"{method}: {values}.")
    return " ".join(lines) or "No results yet."


def _level_table(found: Sequence[Cell], columns: Sequence[str], values: Callable[[Cell], list[str]]) -> Markup:
    """Return methods x noise levels, each level a group of `columns`, filled by `values`."""
    levels = levels_of(found)
    if not levels:
        return element("p", "No results yet.")
    at = {(cell.method, cell.noise_level): cell for cell in found}
    groups = [element("th", ops_text(level), colspan=str(len(columns)), scope="colgroup") for level in levels]
    names = [element("th", name, scope="col") for _ in levels for name in columns]
    body = []
    for method in methods_of(found):
        row = [method]
        for level in levels:
            cell = at.get((method, level))
            row += values(cell) if cell else [NOTHING] * len(columns)
        body.append(row)
    return table([[element("th"), *groups], [element("th", "method", scope="col"), *names]], body)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _facts(path: Path) -> list[tuple[str, str]]:
    try:
        return list(_flat(json.loads(_text(path))))
    except (ValueError, RecursionError):
        return []


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings as (dotted name, text)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value)
