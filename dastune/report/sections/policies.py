"""What the searches found."""

from dastune.errors import UserError
from dastune.folder import SearchRow
from dastune.ops.table import OPS
from dastune.report.found import policy_shares
from dastune.report.markup import Markup, bullets, element, joined, table
from dastune.report.results import Results
from dastune.report.sections.parts import folded
from dastune.report.tables import DEFINITIONS, duration, few_children, found_rows, ops_text, percent

TOP_OPS = 5


def found_policies(results: Results) -> Markup:
    """Return one table for each noise level of what its searches found, and what its columns mean."""
    parts = [element("h2", "What the searches found")]
    for level in sorted({found.noise_level for found in results.found}):
        (_, *titles), *body = found_rows([found for found in results.found if found.noise_level == level])
        head = [element("th", title, scope="col") for title in ("method", *titles)]
        parts += [element("h3", ops_text(level).capitalize()), table([head], body)]
    if len(parts) == 1:
        return joined([*parts, element("p", "No search is in yet.")])
    few = few_children(results.found)
    return joined([*parts, *([element("p", few)] if few else []), bullets(DEFINITIONS)])


def policies(results: Results) -> Markup:
    """Return one line per search: what its policy applies most."""
    lines = [_policy_line(results, row) for row in results.own_searches]
    heading = element("h2", "Found policies")
    if not lines:
        return joined([heading, element("p", "No search is in yet.")])
    note = "Best validation accuracy seen by the search, and the ops that the policy applies most, by expected share."
    return joined([heading, element("p", note, class_="note"), folded(f"{len(lines)} searches", lines, False)])


def _policy_line(results: Results, row: SearchRow) -> Markup:
    seen = "no validation" if row.val_accuracy is None else f"validation {percent(row.val_accuracy)} %"
    return joined(
        [element("code", row.id), f"{seen}, {duration(row.charged_seconds)} charged: {_top_ops(results, row)}"], " "
    )


def _top_ops(results: Results, row: SearchRow) -> str:
    if row.status == "failed":
        return "failed"
    try:
        shares = policy_shares(results.folder, row)
    except UserError as error:
        return str(error)
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    top = ", ".join(
        f"{op}{' (noise)' if OPS[op].noise else ''} {percent(share, 0)} %" for op, share in ranked[:TOP_OPS]
    )
    return top + (f", and {len(ranked) - TOP_OPS} more" if len(ranked) > TOP_OPS else "")
