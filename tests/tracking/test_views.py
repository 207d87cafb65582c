"""Views are what MLflow's UI reads (its own tests of that are in tests/browser), made once for an experiment."""

import base64
import json
import zlib

import pytest

from dastune.tracking.views import COMPARISON, MEANS, SEARCHES, VIEW, view_path, view_tags

# MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

MOST_CHARACTERS = 20_000  # of an experiment's tag, mlflow.utils.validation.MAX_EXPERIMENT_TAG_VAL_LENGTH
PARAMS = {"methods": '["das", "my method"]', "noise_levels": "[0, 4]"}


def states(params):
    """Return id -> state of each view, as MLflow's UI unpacks it."""
    found = {}
    for name, value in view_tags(7, params).items():
        assert len(value) < MOST_CHARACTERS
        view = json.loads(value)
        assert (view["createdAt"], view["updatedAt"]) == (7, 7)
        kind, _, packed = view["state"].partition(";")
        assert kind == "deflate"
        found[name.removeprefix(VIEW)] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def test_groups_are_closed_and_charts_are_of_what_is_logged():
    found = states(PARAMS)
    assert found.keys() == {COMPARISON, MEANS, SEARCHES}
    assert found[COMPARISON]["groupsExpanded"] == {"param.method.das": False, "param.method.my method": False}
    assert found[MEANS]["groupsExpanded"].keys() == {
        f"param.method.{method},param.noise_level.{level}" for method in ("das", "my method") for level in (0, 4)
    }
    assert found[SEARCHES]["groupBy"] is None
    for state in found.values():
        sections = {section["uuid"] for section in state["compareRunSections"]}
        assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
        uuids = [chart["uuid"] for chart in state["compareRunCharts"]]
        assert len(set(uuids)) == len(uuids)
    lines = [chart["metricKey"] for chart in found[COMPARISON]["compareRunCharts"] if chart["type"] == "LINE"]
    assert lines == ["over_noise_level/test_accuracy", "over_noise_level/noise_mass", "val_accuracy"]


def test_views_of_a_study_that_removes_training_images():
    found = states({"methods": '["das"]', "noise_levels": "[0]", "removed_percents": "[0, 90]"})
    assert found[MEANS]["groupsExpanded"].keys() == {
        f"param.method.das,param.removed_percent.{percent}" for percent in (0, 90)
    }
    assert [key["groupByData"] for key in found[MEANS]["groupBy"]["groupByKeys"]] == ["method", "removed_percent"]
    lines = [chart["metricKey"] for chart in found[COMPARISON]["compareRunCharts"] if chart["type"] == "LINE"]
    assert lines == ["over_removed_percent/test_accuracy", "val_accuracy"]
    assert "noise_level" not in json.dumps(found)


@pytest.mark.parametrize("params", [{}, {"methods": "das, random"}, {"methods": "7", "noise_levels": "{}"}])
def test_groups_are_open_where_the_study_does_not_say(params):
    assert states(params)[MEANS]["groupsExpanded"] == {}


def test_an_address_is_of_charts_or_of_a_table():
    assert view_path("3", MEANS, charts=False) == (
        "/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=dastune-means"
    )
    assert "compareRunsMode=CHART" in view_path("3", COMPARISON)


def test_an_experiment_gets_the_views_it_lacks(study):
    """One that a person has changed stays as it is, in later executions too."""
    study.send_all()
    client = study.client()
    first = client.get_experiment_by_name("digits_noise").tags
    assert {name for name in first if name.startswith(VIEW)} == {VIEW + name for name in (COMPARISON, MEANS, SEARCHES)}
    client.set_experiment_tag("1", VIEW + MEANS, "changed")
    client.delete_experiment_tag("1", VIEW + SEARCHES)
    study.send_all()
    second = client.get_experiment_by_name("digits_noise").tags
    assert second[VIEW + MEANS] == "changed"
    assert second[VIEW + COMPARISON] == first[VIEW + COMPARISON]
    assert json.loads(second[VIEW + SEARCHES])["name"] == "dastune: searches"
