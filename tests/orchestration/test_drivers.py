"""A driver that is killed, stopped, hung up on, and whose disk is full, for real; then started again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from dastune.config import StudyConfig
from dastune.folder import StudyFolder, read_lines

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(ray|mlflow|pydantic|google)"),
]

PATIENCE_SECONDS = 240.0  # for what takes some seconds where nobody else is at work

Survived = Callable[[StudyConfig, StudyFolder], None]
Begin = Callable[..., "Begun"]


class Begun:
    """A `dastune` in a session of its own, whose descendants are known by a variable of their environment.

    Args:
        prelude: Python that its process runs first.
    """

    def __init__(self, arguments: list[str], cwd: Path, ray_folder: Path, prelude: str) -> None:
        self._mark = os.urandom(8).hex()
        self._words = cwd / f"{self._mark}.txt"
        main = f"{prelude}\nfrom dastune.cli import main\nmain()"
        with self._words.open("w") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-c", main, *arguments],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "DASTUNE_MARK": self._mark, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200"},
            )

    @property
    def words(self) -> str:
        """What it has printed."""
        return self._words.read_text()

    def processes(self) -> dict[int, str]:
        """It and all that came of it: titles by process id."""
        found = {}
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdigit() and self._mark.encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # gone
                continue
        return found

    def trials(self) -> list[int]:
        """Process ids of the trials at work."""
        return [number for number, title in self.processes().items() if title.startswith("ray::ImplicitFunc.train")]

    def until(self, condition: Callable[[], object]) -> "Begun":
        """Wait until `condition` holds, which it must while the process lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.words
            assert time.monotonic() < deadline, self.words
            time.sleep(0.05)
        return self

    def send(self, number: signal.Signals, *, to_all: bool = False) -> "Begun":
        """Send a signal to the driver, or to all processes of its session's group, as a terminal does."""
        if to_all:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self

    def end(self) -> int:
        """Wait for its end and that of all its processes; return its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        assert "Traceback" not in self.words, self.words
        return code


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sessions; short, for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def begin(tmp_path: Path, ray_folder: Path) -> Iterator[Begin]:
    """Return what begins `dastune ARGUMENTS` in `tmp_path`; ends what is left of it."""
    begun: list[Begun] = []

    def begin(*arguments: str, prelude: str = "") -> Begun:
        begun.append(Begun(list(arguments), tmp_path, ray_folder, prelude))
        return begun[-1]

    yield begin
    for each in begun:
        for number in each.processes():
            os.kill(number, signal.SIGKILL)
        each.process.wait()


RUN = ("run", "study.yaml", "--output", "runs", "--resume")


def written(study: StudyConfig, tmp_path: Path) -> StudyFolder:
    """Write the study's file; return the folder that RUN makes."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    return StudyFolder(tmp_path / "runs" / study.name)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def heard_more(folder: StudyFolder) -> Callable[[], bool]:
    """Return what says whether trials have been heard since this call."""
    before = size(folder.ledger)
    return lambda: size(folder.ledger) > before


def newest(folder: StudyFolder, search: str) -> Path:
    """Return the newest checkpoint of a search."""
    return max(folder.checkpoints.glob(f"{search}.?.pt"), key=lambda path: path.stat().st_mtime_ns)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, size(path) // 2)


def heard_in(folder: StudyFolder, attempt: int, *, durable: bool = False) -> set[str]:
    """Return the searches that are in the ledger with this attempt, or with a checkpoint of it."""
    lines = read_lines(folder.ledger)
    return {line["search"] for line in lines if line["attempt"] == attempt and line["durable"] >= durable}


def test_twenty_kills_of_the_driver_change_nothing(
    study_of: Callable[..., StudyConfig], survived: Survived, begin: Begin, tmp_path: Path
) -> None:
    """Every other one after it has heard of trials, the rest at any time of its start; the next one begins at once."""
    study = study_of(methods={"das": None, "auto_augment": None, "none": None}, budget={"steps": 400})
    folder, moments = written(study, tmp_path), random.Random(0)
    for kill in range(20):
        driver = begin(*RUN)
        wait_seconds = moments.uniform(0.0, 9.0)
        if kill % 2:
            heard = heard_more(folder)
            while not heard() and driver.process.poll() is None:
                time.sleep(0.05)
            wait_seconds /= 3
        try:
            driver.process.wait(wait_seconds)
            assert driver.process.returncode == 0, driver.words
        except subprocess.TimeoutExpired:
            driver.send(signal.SIGKILL)
        assert "Traceback" not in driver.words, driver.words
    last = begin(*RUN)
    assert last.end() == 0, last.words
    survived(study, folder)


def test_however_it_is_stopped_it_goes_on(
    study_of: Callable[..., StudyConfig], survived: Survived, begin: Begin, tmp_path: Path
) -> None:
    """Five stops of one study, checkpoints damaged in between, beside a second driver that is refused."""
    study = study_of(
        methods={"das": None, "auto_augment": None},
        space={"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0]}},
        budget={"steps": 3000},
        seeds={"search": [0], "final": [0]},
    )
    searches = {"das-n0-s0", "auto_augment-n0-s0"}
    folder = written(study, tmp_path)
    # What a driver leaves that is killed before the study begins is in nobody's way.
    folder.root.mkdir(parents=True)
    for path in (folder.lock, folder.ledger, folder.root / ".study.yaml.99.tmp"):
        path.touch()
    (folder.root / "probe-0").write_text("probe")

    def stop_by_command() -> None:
        assert begin("stop", "runs/small").end() == 0

    stops: list[Callable[[Begun], object]] = [
        lambda driver: driver.send(signal.SIGINT),
        lambda driver: driver.send(signal.SIGINT, to_all=True),  # a terminal's Ctrl-C
        lambda driver: driver.send(signal.SIGTERM, to_all=True),  # systemd, timeout, Slurm
        lambda driver: driver.send(signal.SIGHUP, to_all=True),  # a terminal that closes
        lambda driver: stop_by_command(),
    ]
    damage: dict[int, Callable[[Path], None]] = {2: flip, 3: truncate}  # after these stops; there are two of each then
    damaged = ""
    for attempt, stop in enumerate(stops):
        # All are at work, so that each writes a checkpoint.
        driver = begin(*RUN).until(partial(lambda attempt: heard_in(folder, attempt) == searches, attempt))
        if attempt == 0:
            second = begin("resume", "runs/small")
            assert second.end() == 2
            assert "another dastune works on this study" in second.words
            assert len(second.words.splitlines()) == 1
        stop(driver)
        assert driver.end() == 130, driver.words
        assert "stopping: searches write their checkpoints" in driver.words
        assert driver.words.endswith("go on: dastune resume runs/small\n")
        # Told once, by a driver that may hear of it after the search is at work.
        assert driver.words.count("is damaged") == (1 if damaged else 0)
        assert damaged in driver.words
        assert not (folder.root / "stop").exists()
        assert heard_in(folder, attempt, durable=True) == searches
        assert statuses(study, folder) == dict.fromkeys(searches, "KILLED")
        damaged = ""
        if attempt in damage:
            # Not the other's: work that is done twice makes points of children twice.
            path = newest(folder, "das-n0-s0")
            damage[attempt](path)
            damaged = f"checkpoints/{path.name} is damaged"
    last = begin(*RUN)
    assert last.end() == 0, last.words
    survived(study, folder)


def statuses(study: StudyConfig, folder: StudyFolder) -> dict[str, str]:
    """Return how the runs of searches stand in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.mlflow_store}")
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`dastune.stage` = 'search'")
    return {run.data.tags["dastune.key"]: run.info.status for run in runs}


def test_the_second_ctrl_c_ends_at_once_whatever_hangs(
    study_of: Callable[..., StudyConfig], survived: Survived, begin: Begin, tmp_path: Path
) -> None:
    study = study_of(methods={"das": None, "none": None}, budget={"steps": 400}, seeds={"search": [0], "final": [0]})
    folder = written(study, tmp_path)
    driver = begin(*RUN).until(heard_more(folder))
    driver.until(driver.trials)
    hung = driver.trials()
    for number in hung:
        os.kill(number, signal.SIGSTOP)
    driver.send(signal.SIGINT).until(lambda: "stopping" in driver.words)
    driver.send(signal.SIGINT)
    assert driver.end() == 130, driver.words
    assert driver.words.endswith("stopped at once; go on: dastune resume runs/small\n")
    again = begin("resume", "runs/small")
    assert again.end() == 0, again.words
    survived(study, folder)


MOMENTS: dict[str, Callable[[Begun, StudyFolder], object]] = {
    "pandas is imported": lambda driver, folder: "/pandas/" in maps(driver),
    "Ray is imported": lambda driver, folder: "_raylet.so" in maps(driver),
    "Ray starts": lambda driver, folder: len(driver.processes()) > 1,
    "the folder is made": lambda driver, folder: folder.lock.exists(),
    "MLflow's store is made": lambda driver, folder: folder.mlflow_store.exists(),
    "trials begin": lambda driver, folder: "searches, " in driver.words,
    "the report is made": lambda driver, folder: folder.report.exists() and "2/2" in driver.words,
}


def maps(driver: Begun) -> str:
    return Path(f"/proc/{driver.process.pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_at_any_time(
    study_of: Callable[..., StudyConfig], survived: Survived, begin: Begin, tmp_path: Path, number: signal.Signals
) -> None:
    study = study_of(methods={"none": None}, seeds={"search": [0], "final": [0]})
    folder = written(study, tmp_path)
    for moment, is_there in MOMENTS.items():
        driver = begin(*RUN)
        driver.until(partial(is_there, driver, folder)).send(number)
        code = driver.end()
        # By then it may be about to end by itself.
        assert code == 130 or (code == 0 and moment in ("trials begin", "the report is made")), (moment, driver.words)
        assert len(driver.words.splitlines()) <= 20, driver.words
    last = begin(*RUN)
    assert last.end() == 0, last.words
    survived(study, folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB at tmp_path/runs."""
    runs = tmp_path / "runs"
    runs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(runs)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounts are not permitted here")
    yield runs
    subprocess.run(["umount", "-l", str(runs)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that takes all the room there is; return it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_a_full_disk_is_waited_for_and_then_told(
    study_of: Callable[..., StudyConfig], survived: Survived, begin: Begin, tmp_path: Path, small_disk: Path
) -> None:
    study = study_of(
        methods={"das": None, "auto_augment": None},
        space={"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0]}},
        budget={"steps": 1500},
        seeds={"search": [0], "final": [0]},
    )
    folder = written(study, tmp_path)
    less = "import dastune.orchestration.driver as driver\ndriver.WRITE_SECONDS = 5.0"
    # Not freed: one line with what to do.
    driver = begin(*RUN, prelude=less).until(heard_more(folder))
    filler = fill(small_disk)
    assert driver.end() == 2, driver.words
    told = [line for line in driver.words.splitlines() if line.startswith("dastune: ")]
    assert len(told) == 1, driver.words
    assert "runs/small: cannot be written (No space left on device)" in told[0]
    assert told[0].endswith("then: dastune resume runs/small")
    # Begun on a disk that is full.
    early = begin("resume", "runs/small")
    assert early.end() == 2, early.words
    assert "No space left on device" in early.words
    # That cannot be written at all.
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for arguments in (("resume", "runs/small"), ("stop", "runs/small")):
        refused = begin(*arguments)
        assert refused.end() == 2, refused.words
        assert "Read-only file system" in refused.words
        assert len(refused.words.splitlines()) == 1, refused.words
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    filler.unlink()
    # Freed while the driver waits.
    driver = begin("resume", "runs/small").until(heard_more(folder))
    filler = fill(small_disk)
    driver.until(lambda: "all wait" in driver.words)
    filler.unlink()
    assert driver.end() == 0, driver.words
    survived(study, folder)
