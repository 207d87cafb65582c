"""Which devices a study ran on, in words: from env.json alone, whatever that holds."""

import json

import pytest

from dastune.folder import StudyFolder, write_atomic
from dastune.report.devices import device_models, ran_on, unlike
from dastune.report.page import write_report

A100 = {"device": "GPU", "model": "NVIDIA A100-SXM4-40GB", "count": 16, "nodes": 2}
T4 = {"device": "GPU", "model": "Tesla T4", "count": 1, "nodes": 1}
XEON = {"device": "CPU", "model": "Xeon <b>&|", "count": 8, "nodes": 1}


SMALL = {"methods": ("das",), "levels": (0,), "seeds": (0,)}


def reported(folder, nodes):
    write_atomic(folder.env, json.dumps({"python": "3.11", "nodes": nodes}))
    page = write_report(folder).read_text(encoding="utf-8")
    return page, (folder.report / "tables.md").read_text(encoding="utf-8")


def test_devices_of_one_model_are_named(make_study):
    page, tables = reported(make_study(**SMALL), [A100])
    assert "Searches ran on NVIDIA A100-SXM4-40GB (16 GPUs on 2 nodes)." in page
    assert "unlike" not in page + tables


def test_unlike_devices_are_a_limit_of_the_answer(make_study):
    page, tables = reported(make_study(**SMALL), [A100, T4])
    sentence = (
        "Searches ran on unlike devices: NVIDIA A100-SXM4-40GB (16 GPUs on 2 nodes), Tesla T4 (1 GPU on 1 node). An "
        "hour on one is not an hour on another, so device times, and what searches reached in a budget of hours, are "
        "only roughly comparable."
    )
    assert f"<li>{sentence}</li>" in page.partition("What this does not show")[2].partition("</section>")[0]
    assert tables.endswith(f"\n{sentence}\n")


def test_a_models_name_is_data(make_study):
    page, tables = reported(make_study(**SMALL), [XEON, T4])
    assert "<b>" not in page
    assert "Xeon &lt;b&gt;&amp;| (8 CPU slots on 1 node)" in page
    assert "Xeon &lt;b>&amp;&#124;" in tables


@pytest.mark.parametrize(
    "nodes", [None, 3, "x", {}, [], [3], [{}], [{**A100, "count": "x"}], [{**A100, "count": 1e999}]]
)
def test_what_cannot_be_read_is_left_out(tmp_path, nodes):
    folder = StudyFolder(tmp_path)
    write_atomic(folder.env, json.dumps({"nodes": nodes}))
    assert (device_models(folder), ran_on(()), unlike(())) == ((), "", "")


def test_a_study_of_an_earlier_version(make_study):
    folder = make_study(**SMALL)
    assert "Searches ran on" not in write_report(folder).read_text(encoding="utf-8")
