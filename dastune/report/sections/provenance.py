"""Where the numbers come from, and what is missing."""

import shlex

from dastune.errors import without_secrets
from dastune.report.devices import ran_on
from dastune.report.markup import Markup, element, joined, table
from dastune.report.results import Results
from dastune.report.sections.parts import facts_of, folded, text_of

FOLD_OVER = 12  # lists longer than this start folded


def provenance(results: Results) -> Markup:
    """Return the study as resolved, where it ran, and the commands to repeat it."""
    folder = results.folder
    run_folder = shlex.quote(folder.root.name)
    study = without_secrets(text_of(folder.study))
    facts = facts_of(folder.env)
    devices = ran_on(results.models)
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


def missing(results: Results) -> Markup:
    """Return what failed, what was cut short and what is still to come."""
    state = results.state
    trainings = [f"{search}, training seed {seed}" for search, seed in state.missing_finals or ()]
    groups = [
        ("Failed searches, left out of every number", state.failed),
        ("Searches ended by the infrastructure before their budget was used, counted", state.cut),
        ("Searches not in yet", state.missing_searches or ()),
        ("Final trainings not in yet", trainings),
    ]
    parts = [folded(f"{title}: {len(ids)}", list(ids), len(ids) <= FOLD_OVER) for title, ids in groups if ids]
    if not parts:
        known = state.missing_searches is not None
        text = "Nothing failed and nothing is missing." if known else "Nothing failed; what is missing is not known."
        parts = [element("p", text)]
    return joined([element("h2", "Failed or missing"), *parts])
