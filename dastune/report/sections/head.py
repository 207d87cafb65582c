"""The title, the state, and the answer with its limits."""

from dastune.report.answer import answer
from dastune.report.devices import unlike
from dastune.report.markup import Markup, bullets, element, joined
from dastune.report.results import Results


def head(results: Results) -> Markup:
    """Return the title and how many of how many results are in."""
    return joined([element("h1", results.name), _state(results)])


def _state(results: Results) -> Markup:
    state, plan = results.state, results.plan
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


def answers(results: Results) -> Markup:
    """Return the answer in sentences, and what it does not show."""
    plan, models = results.plan, results.models
    result = answer(results.all_cells, plan.methods if plan else None, partial=not results.state.complete)
    parts = [element("p", sentence, class_="answer") for sentence in result.findings]
    limits = [*result.limits, *([unlike(models)] if len(models) > 1 else [])]
    if limits:
        parts.append(element("section", element("h2", "What this does not show"), bullets(limits), class_="limits"))
    return joined(parts)
