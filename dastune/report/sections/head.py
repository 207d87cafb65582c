"""The title, the state, and the answer with its limits."""

from dastune.report.devices import unlike
from dastune.report.markup import Markup, bullets, element, joined
from dastune.report.protocol import budget_text, data_text, model_text
from dastune.report.results import Results


def head(results: Results) -> Markup:
    """Return the title, what the study is of, and how many of how many results are in."""
    return joined([element("h1", results.name), setting(results), state(results)])


def setting(results: Results) -> Markup:
    """Return data, network and budget in a line; nothing where study.yaml cannot be read."""
    if not (study := results.study):
        return Markup("")
    text = f"{data_text(study)}, {model_text(study)}, {budget_text(study)} a search"
    return element("p", text, class_="setting")


def state(results: Results) -> Markup:
    """Return how many of how many results are in."""
    found, plan = results.state, results.plan
    if plan is None:
        text = (
            f"{found.searches_in} searches and {found.finals_in} final trainings are in; "
            "how many the study asks for cannot be read from study.yaml."
        )
    else:
        failed = f"; {len(found.failed)} failed" if found.failed else ""
        text = (
            f"{found.searches_in} of {len(plan.searches)} searches and {found.finals_in} of {len(plan.finals)} final "
            f"trainings are in{failed}."
        )
    if found.complete:
        return element("p", text, class_="state")
    return element("p", f"Partial: {text}", class_="partial")


def answers(results: Results) -> Markup:
    """Return the answer in sentences, and what it does not show."""
    models = results.models
    limits = [*results.answer.limits, *([unlike(models)] if len(models) > 1 else [])]
    if not limits:
        return findings(results)
    shown = element("section", element("h2", "What this does not show"), bullets(limits), class_="limits")
    return joined([findings(results), shown])


def findings(results: Results) -> Markup:
    """Return the answer in sentences, without its limits."""
    return joined([element("p", sentence, class_="answer") for sentence in results.answer.findings])
