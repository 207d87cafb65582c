"""Views of an experiment in MLflow's UI, prepared: what is filtered, grouped, listed and drawn, as clicked by a person.

MLflow (3.17, js of the experiment page) keeps a saved view as a tag of its experiment: a JSON object of a name, when it
was made, and the state of the page, deflated. Its menu "Views" lists them, and a link opens one. An older MLflow passes
over them.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

VIEW = "mlflow.sharedViewState."  # the tag of a view, its id behind

# The ids of the views, in a link: `runs?viewStateShareKey=ID`.
COMPARISON, MEANS, SEARCHES = "dastune-comparison", "dastune-means", "dastune-searches"

# What a study may vary, as the parameter of its runs, and the parameter of an execution's run that lists its levels.
_LEVELS = {"noise_level": "noise_levels", "removed_percent": "removed_percents"}

_SECTION = "dastune"


def view_tags(now_ms: int, study_params: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of an experiment that are its views, by name.

    Args:
        now_ms: milliseconds since 1970, for when they were made.
        study_params: of an execution's run; its "methods" and "noise_levels", JSON lists, are the groups that are
            shown closed, or "removed_percents" where it has that. Where they are missing, or of another kind, groups
            are shown open.
    """
    axis = "removed_percent" if _LEVELS["removed_percent"] in study_params else "noise_level"
    methods, levels = _listed(study_params, "methods"), _listed(study_params, _LEVELS[axis])
    views = {
        COMPARISON: ("dastune: methods", _comparison(methods, axis)),
        MEANS: ("dastune: means", _means(methods, levels, axis)),
        SEARCHES: ("dastune: searches", _searches(axis)),
    }
    return {VIEW + key: _envelope(name, state, now_ms) for key, (name, state) in views.items()}


def over(axis: str) -> str:
    """Return what names of metrics begin with whose step is the level, so that a line chart draws them over it.

    Args:
        axis: what the study varies, such as "noise_level".
    """
    return f"over_{axis}/"


def view_path(experiment_id: str, view: str, charts: bool = True) -> str:
    """Return where in MLflow's UI an experiment is with a view, from the root on; without `charts` as a table."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning{mode}&viewStateShareKey={view}"


def _envelope(name: str, state: Mapping[str, Any], now_ms: int) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode())).decode()
    return json.dumps({"name": name, "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"})


def _listed(params: Mapping[str, str], name: str) -> list[str]:
    try:
        found = json.loads(params.get(name, "[]"))
    except ValueError:
        return []
    return [str(item) for item in found] if isinstance(found, list) else []


def _comparison(methods: list[str], axis: str) -> dict[str, Any]:
    """One line a method: accuracy and noise mass over the level, validation accuracy over seconds."""
    charts = [
        # Not from zero on, as the linear axis of grouped lines is: accuracies differ by little.
        _line(over(axis) + "test_accuracy", scale="log"),
        *([_line(over(axis) + "noise_mass")] if axis == "noise_level" else []),
        _line("val_accuracy"),
        _bar("test_accuracy"),
        _bar("charged_seconds"),
    ]
    closed = [f"param.method.{method}" for method in methods]
    return _state(charts, axis, ("method",), closed) | {"runListHidden": True}


def _means(methods: list[str], levels: list[str], axis: str) -> dict[str, Any]:
    """One row a method and level."""
    closed = [f"param.method.{method},param.{axis}.{level}" for method in methods for level in levels]
    charts = [_bar("test_accuracy"), *([_bar("noise_mass")] if axis == "noise_level" else [])]
    return _state(charts, axis, ("method", axis), closed)


def _searches(axis: str) -> dict[str, Any]:
    """Each search by itself."""
    metrics = [*(["noise_mass"] if axis == "noise_level" else []), "test_accuracy"]
    axes = {"selectedParams": ["method", axis], "selectedMetrics": metrics}
    scatter = {"xaxis": {"key": axis, "type": "PARAM"}, "yaxis": {"key": "test_accuracy", "type": "METRIC"}}
    charts = [
        _chart("PARALLEL", "parallel", showAllRuns=False, **axes),
        _chart("SCATTER", "scatter", runsCountToCompare=100, **scatter),
        _line("val_accuracy"),
    ]
    return _state(charts, axis)


def _state(
    charts: list[dict[str, Any]], axis: str, group_by: tuple[str, ...] = (), closed: Iterable[str] = ()
) -> dict[str, Any]:
    keys = [{"mode": "param", "groupByData": name} for name in group_by]
    name, made, *metrics = columns = [
        "attributes.`Run Name`",
        "runDateAndNestInfo",
        *(f"metrics.`{name}`" for name in ("test_accuracy", "val_accuracy", "noise_mass", "charged_seconds")),
    ]
    return {
        "searchFilter": "tags.stage = 'search'",
        "orderByKey": "metrics.`test_accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [
            *(f"params.`{name}`" for name in ("method", axis, "search_seed")),
            *metrics,
            *(f"tags.`{name}`" for name in ("status", "cost")),
            "attributes.`Dataset`",
        ],
        "columnOrder": columns,
        "columnWidths": {name: 380, made: 140} | dict.fromkeys(metrics, 140),
        "runsHiddenMode": "SHOW_ALL",
        "groupsExpanded": dict.fromkeys(closed, False),
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "compareRunSections": [{"uuid": _SECTION, "name": "Comparison", "display": True, "isReordered": True}],
        "compareRunCharts": charts,
    }


def _chart(kind: str, uuid: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "uuid": f"{_SECTION}-{uuid}", "metricSectionId": _SECTION, "deleted": False, **fields}


def _line(metric: str, scale: str = "linear") -> dict[str, Any]:
    return _chart(
        "LINE",
        f"line-{metric}",
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        useGlobalXaxisKey=False,
        xAxisScaleType="linear",
        scaleType=scale,
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        selectedXAxisMetricKey="",
        lineSmoothness=0,
        useGlobalLineSmoothing=False,
        displayPoints=True,
        ignoreOutliers=False,
    )


def _bar(metric: str) -> dict[str, Any]:
    return _chart("BAR", f"bar-{metric}", metricKey=metric, runsCountToCompare=100)
