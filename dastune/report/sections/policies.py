"""Found policies: one of each method as a graph, a picture and a text, and a line for each search."""

from collections.abc import Iterator, Mapping, Sequence

from dastune.errors import UserError
from dastune.folder import SearchRow
from dastune.policy.policy import Clip, Policy
from dastune.report.axis import NOISE, Axis
from dastune.report.figures import save
from dastune.report.figures.cells import policy_figure
from dastune.report.found import read_policy
from dastune.report.learned import FIXED
from dastune.report.markup import Markup, bullets, element, inline_svg, joined
from dastune.report.pictures import picture_url
from dastune.report.policy_text import policy_lines
from dastune.report.results import Results
from dastune.report.sections.ops import frequent, top_ops
from dastune.report.sections.parts import link
from dastune.report.tables import duration, percent

MOST_SHOWN = 6  # methods with a graph and a picture
MOST_PICTURE_CHARACTERS = 2_000_000  # in a page
MOST_LINES = 60  # of a policy's text
MOST_LISTED = 1000  # searches

_RULE = (
    "Of each method that searches, the policy of the seed with the median test accuracy (of an even number the lower "
    "of the middle two; the first seed where no test accuracy is in). In a graph, percentages are of images, p is the "
    "chance that an op is applied, dashed edges are noise ops, and pale ones are never taken or reach no output. Of "
    "clips, ops have what they do from one frame to the next."
)

_STRIPS = {
    "time": "Film strips: a row is the frames of a training image, in time; the middle one, on black, is the image.",
    "shuffled": "Film strips: a row is the frames of a training image, in the order drawn for it; one is the image.",
}

Accuracies = Mapping[tuple[str, int], Mapping[int, float]]
"""(method, level) -> search seed -> test accuracy in [0, 1]."""


def policies(results: Results) -> Markup:
    """Return the policies of the highest level, one a method; ops over seeds; and a line for each search."""
    heading = element("h2", "Found policies")
    axis, rows = results.axis, [row for row in results.own_searches if row.status != "failed"]
    if not rows:
        return joined([heading, element("p", "No search is in yet.")])
    accuracies = {(cell.method, cell.level): cell.accuracies for cell in results.cells}
    level = max(map(axis.level, rows))
    here = [row for row in rows if axis.level(row) == level and results.kinds.get(row.method, row.method) not in FIXED]
    median = median_rows(here, accuracies, axis)
    shown, left_out = median[:MOST_SHOWN], [row.method for row in median[MOST_SHOWN:]]
    parts = [heading]
    if shown:
        parts.append(element("p", f"At {axis.text(level)}. {_RULE}", class_="note"))
        parts += _articles(results, shown, accuracies)
    if left_out:
        parts.append(element("p", f"Not drawn, {len(left_out)} more: {', '.join(left_out)}.", class_="note"))
    frequently = frequent(results, [row.method for row in shown])
    return joined([*parts, frequently, *_lists(results, accuracies)])


def median_rows(rows: Sequence[SearchRow], accuracies: Accuracies, axis: Axis = NOISE) -> list[SearchRow]:
    """Return of each method, in order, the row with the median test accuracy; `rows` are of one level."""
    methods: dict[str, list[SearchRow]] = {}
    for row in sorted(rows, key=lambda row: row.search_seed):
        methods.setdefault(row.method, []).append(row)
    chosen = {}
    for method, its in methods.items():
        known = accuracies.get((method, axis.level(its[0])), {})
        tested = sorted((row for row in its if row.search_seed in known), key=lambda row: known[row.search_seed])
        chosen[method] = tested[(len(tested) - 1) // 2] if tested else its[0]
    return [chosen[method] for method in dict.fromkeys(row.method for row in rows)]


def _articles(results: Results, rows: Sequence[SearchRow], accuracies: Accuracies) -> Iterator[Markup]:
    room = MOST_PICTURE_CHARACTERS
    for number, row in enumerate(rows, 1):
        heading = element("h3", row.method)
        facts = element("p", element("code", row.id), f": {_numbers(row, accuracies, results.axis)}")
        try:
            policy = read_policy(results.folder, row)
        except UserError as error:
            told = element("p", f"Nothing to show: {error}.", class_="partial")
            yield element("article", heading, facts, told)
            continue
        picture, used = _picture(results, row, policy, room)
        room -= used
        yield element(
            "article", heading, facts, _graph(results, row, policy, f"policy_{number}"), picture, _text(policy)
        )


def _numbers(row: SearchRow, accuracies: Accuracies, axis: Axis) -> str:
    tested = accuracies.get((row.method, axis.level(row)), {}).get(row.search_seed)
    test = "no test accuracy yet" if tested is None else f"test accuracy {percent(tested)} %"
    seen = "no validation" if row.val_accuracy is None else f"validation {percent(row.val_accuracy)} %"
    return f"{test}, {seen}, {duration(row.charged_seconds)} charged"


def _graph(results: Results, row: SearchRow, policy: Policy, name: str) -> Markup:
    drawn = policy_figure(policy)
    if drawn is None:
        return element("p", "No graph: the policy has no steps, or more than a graph can show.", class_="note")
    save(drawn, results.output / name)
    svg = (results.output / f"{name}.svg").read_text(encoding="utf-8")
    graph = inline_svg(svg, name, f"Graph of the policy of {row.id}, whose text is below")
    links = joined([link(f"{name}.{extension}") for extension in ("png", "svg", "pdf")], ", ")
    width = f"max-width: {7 * drawn.get_figwidth():.1f}rem"  # a little more than in print
    return element("figure", graph, element("figcaption", links), style=width)


def _picture(results: Results, row: SearchRow, policy: Policy, room: int) -> tuple[Markup, int]:
    """Return the picture of what the policy does, if there is one, and how many characters of `room` it takes."""
    try:
        url = picture_url(results.folder, row.id)
    except UserError as error:
        return element("p", f"No picture: {error}.", class_="note"), 0
    if url is None:
        return Markup(""), 0
    if len(url) > room:
        return element("p", f"Its picture is in the study's folder: pictures/{row.id}.png.", class_="note"), 0
    alt = f"Training images in a row, and under each what the policy of {row.id} makes of it"
    caption = "Top: training images. Under each: what the policy makes of it, drawn anew in every row."
    if isinstance(policy, Clip) and policy.order != "one":
        alt = f"Film strips: in each row the frames that the policy of {row.id} makes of a training image"
        caption = _STRIPS[policy.order]
    image = Markup(element("img", src=url, alt=alt, class_="pixels").removesuffix("</img>"))
    return element("figure", image, element("figcaption", caption)), len(url)


def _text(policy: Policy) -> Markup:
    lines = policy_lines(policy)
    more = [f"and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    text = "\n".join([*lines[:MOST_LINES], *more])
    return element("details", element("summary", "The policy as text"), element("pre", element("code", text)))


def _lists(results: Results, accuracies: Accuracies) -> Iterator[Markup]:
    """Yield, for each level, the highest first, a folded list with a line for each search."""
    levels: dict[int, list[SearchRow]] = {}
    for row in results.own_searches:
        levels.setdefault(results.axis.level(row), []).append(row)
    room = MOST_LISTED
    for level in sorted(levels, reverse=True):
        rows = levels[level]
        lines = [joined([element("code", row.id), _line(results, row, accuracies)], " ") for row in rows[:room]]
        more = [f"and {len(rows) - room} more, in searches.jsonl and policies/"] if len(rows) > room else []
        room -= len(lines)
        summary = element("summary", f"All searches at {results.axis.text(level)}: {len(rows)}")
        yield element("details", summary, bullets([*lines, *more]))


def _line(results: Results, row: SearchRow, accuracies: Accuracies) -> str:
    if row.status == "failed":
        return "failed"
    applied = results.applied[row.id]
    return (
        f"{_numbers(row, accuracies, results.axis)}: {applied.error or top_ops(applied.shares) or 'nothing is applied'}"
    )
