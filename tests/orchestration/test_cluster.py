"""A study on a Ray cluster of several nodes, all on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dastune.config import StudyConfig
from dastune.data.classification import Dataset
from dastune.folder import StudyFolder
from dastune.orchestration.grid import grid
from dastune.orchestration.study import run
from dastune.orchestration.trial import trial
from dastune.policy.policy import load_policy

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster whose head takes no trials and whose two workers take one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    store = 200 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=store)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def test_a_cluster_finds_what_one_process_finds(
    three_nodes: str,
    study_of: Callable[..., StudyConfig],
    dataset: Dataset,
    tmp_path: Path,
    folder_at: Callable[[Path], StudyFolder],
) -> None:
    study = study_of(seeds={"search": [0], "final": [0]})
    result = run(study, output=tmp_path / "runs", address=three_nodes)
    assert not result.missing
    tested = {row.search_id: row.test_accuracy for row in result.final_rows}
    for assignment in grid(study):
        folder = folder_at(tmp_path / assignment.id)
        finals = [final for report in trial(study, assignment, dataset, folder) for final in report.finals]
        policies = [load_policy(each.policy(assignment.id)) for each in (folder, result.folder)]
        assert policies[0] == policies[1]
        assert [final.test_accuracy for final in finals] == [tested[assignment.id]]
