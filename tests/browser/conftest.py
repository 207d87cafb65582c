"""A real Chromium, headless; a real small study, and one of made-up rows and wild names; screenshots as test output."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from dastune.folder import FinalRow, SearchRow, StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, policy_text
from dastune.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Some seconds each of every kind of method: searched, drawn at random, without a search, published.
REAL = """
name: real
data: {name: digits, train_images: 100, validation_images: 100}
model: {name: small_cnn, channels: 8}
space: {ops: das-image, noise: {ops: default, levels: [0, 4]}}
methods: {das: {}, auto_augment: {}, random: {}, none: {}, theirs: {method: published, policy: aa-svhn}}
budget: {steps: 60}
seeds: {search: [0, 1, 2], final: [0]}
final: {epochs: 3}
resources: {cpus: 1}
"""

# Names that would be elements, or wider than a phone, if they were not text.
WILD = ("<img src=x onerror=alert(1)>", "a" * 60, "das & 'quotes\"", "none")
LEVELS, SEEDS = (0, 4, 8, 10), (0, 1, 2, 3, 4)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests: Playwright's synchronous calls allow no second one beside it."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if found is None:
            pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH, nor Playwright's own")
        # Chromium refuses its sandbox to root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: DASTUNE_SCREENSHOTS, or pytest's temporary folder."""
    folder = Path(os.environ.get("DASTUNE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Opened:
    """A page that has been opened, and what went wrong or out on the way.

    Attributes:
        said: errors and warnings of the console, exceptions of scripts, dialogs.
        asked: addresses of all requests.
    """

    page: Page
    said: list[str]
    asked: list[str]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Return a function that opens an address in a browser context of its own (keywords: of that)."""
    contexts = []

    def opening(address: str, **options: object) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        opened = Opened(context.new_page(), [], [])
        page = opened.page
        page.on("console", lambda m: opened.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: opened.said.append(str(error)))
        page.on("dialog", lambda dialog: (opened.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: opened.asked.append(request.url))
        page.goto(address)
        return opened

    yield opening
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def real_study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study that `dastune run` has run."""
    home = tmp_path_factory.mktemp("real")
    (home / "real.yaml").write_text(REAL)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "dastune", "run", "real.yaml", "--output", "runs"]
    run = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return StudyFolder(home / "runs" / "real")


@pytest.fixture(scope="session")
def wild_study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study of made-up rows, with names of any kind, a failed search and missing ones."""
    folder = StudyFolder(tmp_path_factory.mktemp("made_up") / "wild")
    methods = {name: {"method": "das"} for name in WILD[:-1]} | {"none": {}}
    space = {"ops": "das-image", "noise": {"ops": "default", "levels": list(LEVELS)}}
    seeds = {"search": [*SEEDS, 5], "final": [0]}
    study = {"name": "wild", "space": space, "methods": methods, "seeds": seeds}
    write_atomic(folder.study, json.dumps(study))
    write_atomic(folder.env, json.dumps({"python": "3.11", "devices": ["cpu " * 40]}))
    choices = tuple(Choice(weight=k, step=Step(op=op)) for k, op in ((3, "invert"), (1, "pixel_shuffle")))
    for place, method in enumerate(WILD):
        for level in LEVELS:
            for seed in SEEDS:
                name = f"m{place}-n{level}-s{seed}"
                status = "failed" if (place, level, seed) == (1, 4, 0) else "budget"
                policy = f"policies/{name}.json"
                numbers = (0.9, 11.0, 10.0, 100, 5, 0.01 * level + 0.01 * seed, 0.2, 30.0)
                folder.add_search(SearchRow(name, method, level, seed, *numbers, policy, status))
                write_atomic(folder.policy(name), policy_text(Stages(stages=(choices,)), {}))
                if status != "failed":
                    accuracy = 0.95 - 0.01 * place - 0.002 * level * place + 0.003 * seed
                    folder.add_final(FinalRow(name, method, level, seed, 0, accuracy, 0.2, 3, 2.0, 9e3, 9000, 10**6))
    return folder


@pytest.fixture(scope="session", params=["real", "wild"])
def report(request: pytest.FixtureRequest) -> Path:
    """The page of a study's report."""
    return write_report(request.getfixturevalue(f"{request.param}_study"))


class Ui:
    """`dastune ui` on a study, running.

    Attributes:
        address: what it told to open.
    """

    def __init__(self, folder: StudyFolder) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "dastune", "ui", str(folder.root), "--port", str(self.port)]
        self._log = (folder.root.parent / "ui.log").open("wb")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.address = next(word for word in line.split() if word.startswith("http"))
        until = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as line:
            line.request("GET", "/health")
            return line.getresponse().status == 200
        return False

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._log.close()


@pytest.fixture(scope="session")
def ui(real_study: StudyFolder) -> Iterator[Ui]:
    ui = Ui(real_study)
    yield ui
    ui.end()
