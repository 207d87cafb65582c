"""MLflow on a real PostgreSQL: directly, and behind a server that many studies log into at once."""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from dastune.errors import UserError
from tests.tracking.conftest import Server, Study, free_port

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = [
    pytest.mark.cluster,
    # MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
]

PROGRAMS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/bin"), Path("/usr/local/bin")]
STUDIES, SEARCHES = 8, 4


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL that was made for these tests, with a password and empty databases "one" and "two"."""
    psycopg = pytest.importorskip("psycopg", reason="needs dastune[postgres]")
    programs = next((folder for folder in PROGRAMS if (folder / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    user = None
    if os.geteuid() == 0:  # as whom it does not run
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with tempfile.TemporaryDirectory(prefix="dastune-postgres-") as home:
        shutil.chown(home, user) if user else None
        port, password, data = free_port(), secrets.token_hex(8), f"{home}/data"

        def call(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            done = subprocess.run(command, user=user, cwd=home, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

        (Path(home) / "password").write_text(password)
        (Path(home) / "password").chmod(0o644)
        call("initdb", "-D", data, "-U", "dastune", "-A", "scram-sha-256", "--pwfile", f"{home}/password", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {home} -c fsync=off"
        call("pg_ctl", "start", "-w", "-D", data, "-l", f"{home}/log", "-o", options)
        try:
            uri = f"postgresql://dastune:{password}@127.0.0.1:{port}"
            with psycopg.connect(f"{uri}/postgres", autocommit=True) as connection:
                for database in ("one", "two"):
                    connection.execute(f"create database {database}")
            yield uri
        finally:
            call("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)


def test_a_study_on_postgresql_itself(postgres: str, study: Study) -> None:
    for start in (0, 30):
        tracker = study.open(f"{postgres}/one")
        study.log_many(tracker, SEARCHES, range(start, start + 30))
        assert tracker.close(120.0) == 0
    _check(f"{postgres}/one", study, study.folder.mlflow_artifacts, executions=2)
    password = postgres.split(":")[2].partition("@")[0]
    assert not [
        path for path in study.folder.root.rglob("*") if path.is_file() and password in path.read_text("latin-1")
    ]


def test_eight_studies_log_into_one_server_at_once(postgres: str, tmp_path: Path) -> None:
    """All of one name, begun at once: they share an experiment that none of them has found."""
    script = """
import sys
from pathlib import Path
from tests.tracking.conftest import Study
study = Study(Path(sys.argv[1]))
tracker = study.open(sys.argv[2])
study.log_many(tracker, 4, range(60))
tracker.end(None)
sys.exit(tracker.close(240.0))
"""
    server = Server(tmp_path, f"{postgres}/two", free_port())
    server.start()
    try:
        command = [sys.executable, "-W", "ignore", "-c", script]
        roots = [tmp_path / f"study-{i}" for i in range(STUDIES)]
        repository = Path(__file__).parents[2]
        drivers = [subprocess.Popen([*command, str(root), server.address], cwd=repository) for root in roots]
        assert [driver.wait() for driver in drivers] == [0] * STUDIES
        for root in roots:
            _check(server.address, Study(root), server.artifacts, executions=1)
        found = MlflowClient(server.address).search_experiments(filter_string="name = 'digits_noise'")
        assert len(found) == 1
    finally:
        server.kill()


def test_a_wrong_password_is_said_and_not_shown(postgres: str, study: Study) -> None:
    wrong = f"{postgres}/one".replace("dastune:", "dastune:not/")
    with pytest.raises(UserError, match="password authentication failed") as caught:
        study.open(wrong)
    assert "not/" not in str(caught.value)
    assert caught.value.__suppress_context__


def _check(uri: str, study: Study, artifacts: Path, executions: int) -> None:
    """Assert that a store has all that `log_many` logged, and each thing once."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'digits_noise'")
    study_id = next(iter(study.events()))["study"]
    found = client.search_runs([experiment.experiment_id], f"tags.`dastune.study_id` = '{study_id}'")
    runs: dict[str, Run] = {run.data.tags["dastune.key"]: run for run in found}
    assert len(runs) == len(found) == executions + SEARCHES
    for i in range(SEARCHES):
        run = runs[f"search-{i}"]
        for metric, values in [("accuracy", [s / (i + 3) for s in range(60)]), ("loss", [-s for s in range(60)])]:
            points = [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, metric)]
            assert points == [(step, 10_000 + step, value) for step, value in enumerate(values)]
        assert run.data.params == {"method": "das", "budget": f"search-{i}"}
        assert run.info.status == "FINISHED"
        files = {path.name: path.read_text() for path in artifacts.rglob(f"{run.info.run_id}/**/*") if path.is_file()}
        assert files == {
            f"search-{i}.json": f'{{"of": "search-{i}"}}',
            "children.json": '{"columns": ["x"], "data": [[1]]}',
        }
