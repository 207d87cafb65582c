"""Where the numbers come from: setting, faults, differences from the paper, how to repeat it, and what is missing."""

import re
import shlex
from collections.abc import Iterator, Mapping

from dastune.errors import without_secrets
from dastune.report.costs import costs, total
from dastune.report.devices import ran_on
from dastune.report.faults import faults
from dastune.report.markup import Markup, bullets, element, joined, table
from dastune.report.protocol import budget_text, data_text, deviations, model_text, seeds_text, value_at
from dastune.report.results import Results
from dastune.report.sections.parts import facts_of, folded, text_of
from dastune.report.table import Table
from dastune.report.tables import duration

FOLD_OVER = 12  # lists longer than this start folded

_COMMIT = re.compile(r"[0-9a-f]{40}\+?")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,40}")


def provenance(results: Results) -> Markup:
    """Return the setting, the commands to repeat the study, the faults it met, and all of its study.yaml and env.json.

    What comes from the folder is only shown; a command holds nothing of it but a quoted name and a checked commit.
    """
    env = dict(facts_of(results.folder.env))
    return joined(
        [
            element("h2", "Provenance"),
            element("div", table([], list(_setting(results, env))), class_="facts"),
            element("h3", "Reproduce this"),
            *_reproduce(results, env),
            element("h3", "Faults met"),
            bullets(_faults(results)),
            element("h3", "Where this differs from the paper"),
            *_deviations(results),
            *_whole_files(results, env),
        ]
    )


def provenance_tables(results: Results) -> list[Table]:
    """Return the table of differences from the paper; nothing where the study cannot be read or has none."""
    rows = [[found.point, found.paper, found.study] for found in deviations(results.study)] if results.study else []
    if not rows:
        return []
    return [
        Table(
            name="deviations",
            title="Where this study differs from the DAS paper, or sets what the paper leaves open",
            columns=("point", "the paper", "this study"),
            rows=rows,
            note="The paper: arXiv 2403.15194, supplement, parts C and F.",
        )
    ]


def _setting(results: Results, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    study = results.study
    yield "data", data_text(study)
    yield "network", model_text(study)
    yield "budget of a search", budget_text(study)
    yield "seeds", seeds_text(study)
    if devices := ran_on(results.models):
        yield "devices", devices
    for title, name in (("dastune", "versions.dastune"), ("commit", "commit"), ("begun", "time")):
        if env.get(name, "null") != "null":
            yield title, env[name]


def _reproduce(results: Results, env: Mapping[str, str]) -> Iterator[Markup]:
    name = results.folder.root.name
    run_folder = shlex.quote(f"./{name}" if name.startswith("-") else name)
    commit, version = env.get("commit", ""), env.get("versions.dastune", "")
    lines = []
    if _COMMIT.fullmatch(commit):
        lines.append(f"git checkout {commit.removesuffix('+')} && pip install .")
    elif _VERSION.fullmatch(version):
        lines.append(f"pip install dastune=={version}")
    lines += [f"dastune run {run_folder}/study.yaml --output repeated", f"dastune report {run_folder}"]
    if _COMMIT.fullmatch(commit):
        where = "The first line in a checkout of dastune, the others where the study's folder is; the last"
    else:
        where = "Where the study's folder is; the last line"
    yield element("p", f"{where} makes this page again, from the folder alone.")
    yield element("pre", element("code", "\n".join(lines)), tabindex="0")
    if commit.endswith("+"):
        yield element("p", "The code had changes that are in no commit (+).", class_="note")
    if value_at(results.study, "budget", "steps") is not None:
        text = "The budget is in steps: on a CPU the same study gives the same numbers."
    else:
        text = "The budget is device time, in which other devices get further or less far: numbers will differ."
    yield element("p", text, class_="note")


def _faults(results: Results) -> Iterator[str]:
    """Yield what went wrong on the way, whatever became of it."""
    met = faults(results)
    if met is None:
        yield "There is no ledger, so it is not known what faults were met."
    else:
        counts = (
            (met.died, "process died or was killed", "processes died or were killed"),
            (met.hung, "step hung, and its process was ended", "steps hung, and their processes were ended"),
            (met.raised, "fault of a method, or what it ran on", "faults of methods, or what they ran on"),
            (met.damaged, "damaged checkpoint was passed over", "damaged checkpoints were passed over"),
            (met.stopped, "process was asked to stop, and did", "processes were asked to stop, and did"),
        )
        told = [f"{count:,} {one if count == 1 else many}." for count, one, many in counts if count]
        yield from told or ["No process died, no step hung, no checkpoint was damaged, nothing was stopped."]
        spent = total(costs(results))
        if told and spent is not None and spent.lost_seconds is not None:
            yield f"{duration(spent.lost_seconds)} of device time was held in vain, and is not charged; see Costs."
    state = results.state
    if state.cut:
        yield f"{len(state.cut):,} searches ended by the infrastructure before their budget was used."
    if state.failed:
        yield f"{len(state.failed):,} searches failed, and are left out of every number."


def _deviations(results: Results) -> Iterator[Markup]:
    tables = provenance_tables(results)
    for shown in tables:
        yield element("div", shown.html(), class_="facts")
    if not tables:
        known = "In nothing that its configuration says." if results.study else "Not known: study.yaml cannot be read."
        yield element("p", known)


def _whole_files(results: Results, env: Mapping[str, str]) -> Iterator[Markup]:
    study = without_secrets(text_of(results.folder.study))
    if study:
        text = element("pre", element("code", study), tabindex="0")
        yield element("details", element("summary", "study.yaml, as resolved"), text)
    else:
        yield element("p", "study.yaml is missing.")
    if env:
        facts = element("div", table([], list(env.items())), class_="facts")
        yield element("details", element("summary", "env.json: versions and machines"), facts)
    else:
        yield element("p", "env.json is missing or empty.")


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
