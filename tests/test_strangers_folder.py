"""A study's folder, or file, from somebody else is data: nothing in it is executed, nothing outside it is touched."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dastune.config import load_study
from dastune.errors import UserError
from dastune.folder import FinalRow, SearchRow, StudyFolder, write_atomic
from dastune.policy.policy import Choice, Stages, Step, policy_text
from dastune.report.plan import read_plan

STUDY = """\
name: small
data: {name: digits, train_images: 40, validation_images: 40}
model: {name: small_cnn, channels: 4}
space: {ops: [identity, rotate, invert], noise: {levels: [0, 2]}}
methods: {das: {}, random: {}, none: {}}
budget: {steps: 12}
seeds: {search: [0, 1], final: [0]}
training: {batch_size: 20, child_epochs: 2}
final: {epochs: 2}
"""
SECRET = "6b1f-content-of-a-file-outside"
ESCAPE = "\x1b]0;title\x07\x1b[31m"
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>[red]|`x`"
DEEP = "[" * 5_000

# Runs commands one after the other, and tells of each what Python audits of files, processes, sockets and pickles. A
# command has 20 s.
WATCHER = """
import contextlib, io, json, os, signal, sys, tempfile
import dastune.augment.policies, dastune.orchestration.study, dastune.report.status, sklearn.datasets
from dastune.cli import main

# what libraries do on first use is none of a folder's doing
sklearn.datasets.load_sample_images()
tempfile.gettempdir()
watched, seen = False, []
KINDS = {"open", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}

def audit(event, arguments):
    if watched and event in KINDS:
        seen.append([event, *(os.fsdecode(a) if isinstance(a, (str, bytes, os.PathLike)) else a for a in arguments)])

def hung(*_):
    raise TimeoutError("hung")

sys.addaudithook(audit)
signal.signal(signal.SIGALRM, hung)
for command in map(json.loads, sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv, seen, watched = ["dastune", *command], [], True
    signal.alarm(20)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        except BaseException as error:
            code = repr(error)[:500]
    signal.alarm(0)
    watched = False
    print(json.dumps([code, out.getvalue(), err.getvalue(), seen], default=repr), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: of its exit; an exception in words if one came out of it.
        events: what Python audited: a name and arguments each.
    """

    code: int | str
    out: str
    err: str
    events: list[list[Any]]


def search_row(**changes: Any) -> dict[str, Any]:
    row = SearchRow(
        *("das-n0-s0", "das", 0, 0, 0.9, 11.0, 10.0, 100, 5, 0.1, 0.2, 30.0),
        policy="policies/das-n0-s0.json",
        status="budget",
    )
    return {**asdict(row), **changes}


def final_row(**changes: Any) -> dict[str, Any]:
    return {**asdict(FinalRow("das-n0-s0", "das", 0, 0, 0, 0.8, 0.2, 30, 20.0, 1000.0, 10_000, 1_000_000)), **changes}


def lines(*rows: Any) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


class Payload:
    """What executes a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def make(root: Path) -> StudyFolder:
    """A folder as a study leaves it, with one search of twelve."""
    folder = StudyFolder(root)
    root.mkdir(parents=True)
    folder.study.write_text(STUDY)
    folder.env.write_text(json.dumps({"python": "3.11", "data_fingerprint": "of other data"}))
    folder.searches.write_text(lines(search_row()))
    folder.finals.write_text(lines(final_row()))
    folder.policies.mkdir()
    policy = Stages(stages=((Choice(weight=1, step=Step(op="rotate", high=30)),),))
    (folder.policies / "das-n0-s0.json").write_text(policy_text(policy, {}))
    return folder


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[str]], Outcome]]:
    """Return what runs a command in another process and tells what it did."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", WATCHER]
    work = tmp_path_factory.mktemp("work")
    with subprocess.Popen(
        command, cwd=work, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def watched(command: list[str]) -> Outcome:
            print(json.dumps(command), file=stdin, flush=True)
            return Outcome(*json.loads(stdout.readline()))

        yield watched
        stdin.close()


def touched(outcome: Outcome, root: Path) -> set[str]:
    """Return what a command executed or connected to, and the files outside `root` that it opened for writing."""
    found = set()
    for event, *arguments in outcome.events:
        if event != "open":
            found.add(f"{event} {arguments}")
            continue
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if isinstance(path, str) and writes and not Path(path).resolve().is_relative_to(root) and path != os.devnull:
            found.add(path)
    return found


def opened(outcome: Outcome) -> set[str]:
    return {
        os.path.realpath(arguments[0])
        for event, *arguments in outcome.events
        if event == "open" and isinstance(arguments[0], str)
    }


def linked(name: str) -> Callable[[StudyFolder, Path], None]:
    """Return what puts a link to a file, or a folder, outside in the place of `name`."""

    def change(folder: StudyFolder, outside: Path) -> None:
        place = folder.root / name
        if place.is_dir():
            place.rename(folder.root / "moved")
        place.unlink(missing_ok=True)
        is_file = "." in name or name in ("lock", "stop")
        place.symlink_to(outside if is_file else outside.parent)

    return change


def written(name: str, content: str | bytes) -> Callable[[StudyFolder, Path], None]:
    def change(folder: StudyFolder, outside: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder.root / name).write_bytes(data.replace(b"OUTSIDE", str(outside).encode()))

    return change


def pipe(name: str) -> Callable[[StudyFolder, Path], None]:
    def change(folder: StudyFolder, outside: Path) -> None:
        (folder.root / name).unlink(missing_ok=True)
        os.mkfifo(folder.root / name)

    return change


LINKS = (
    *("study.yaml", "env.json", "searches.jsonl", "finals.jsonl", "children.jsonl", "ledger.jsonl", "tracking.jsonl"),
    *("pending.json", "mlflow.db", "policies", "checkpoints", "children", "errors", "report", "mlartifacts", "ray"),
    *("lock", "stop"),
)
ALL = ("report", "status", "resume")
STUDY_READERS = ("plan", "status", "resume")
POLICY_READERS = ("policy show", "policy export")
POLICY = "policies/das-n0-s0.json"
HEAD = '{"format": "dastune-policy", "version": '
PICKLE = pickle.dumps(Payload(Path("canary")))
METHODS = [search_row(id=f"m{number}-n0-s0", method=f"m{number}") for number in range(400)]

# Name -> what is done to a folder, and the commands that must refuse it in words.
REFUSED: dict[str, tuple[Callable[[StudyFolder, Path], None], tuple[str, ...]]] = {
    **{f"link {name}": (linked(name), ALL) for name in LINKS},
    "env pipe": (pipe("env.json"), ("resume",)),
    "env list": (written("env.json", "[1]"), ("resume",)),
    "env deep": (written("env.json", DEEP), ("resume",)),
    "env no text": (written("env.json", b"\xff\xfe"), ("resume",)),
    "other data": (written("env.json", "{}"), ("resume",)),
    "another version": (written("searches.jsonl", lines(search_row(colour=1))), ("report",)),
    "fields missing": (written("finals.jsonl", lines({"search_id": "x", "train_seed": 0})), ("report",)),
    "NaN": (written("finals.jsonl", lines(final_row(test_accuracy=float("nan")))), ("report",)),
    "infinity": (written("finals.jsonl", lines(final_row()).replace("0.2,", "1e999,")), ("report",)),
    "huge level": (written("searches.jsonl", lines(search_row(noise_level=10**300))), ("report",)),
    "list for a text": (written("searches.jsonl", lines(search_row(id=["x"]))), ("report",)),
    "half a pair": (written("searches.jsonl", lines(search_row(method="\ud800"))), ("report",)),
    "escapes": (written("searches.jsonl", lines(search_row(**{ESCAPE: ESCAPE}))), ("report",)),
    "many methods": (written("searches.jsonl", lines(*METHODS)), ("report",)),
    "study is a pickle": (written("study.yaml", PICKLE), STUDY_READERS),
    "study executes": (
        written("study.yaml", f"{STUDY}tracking: !!python/object/apply:os.system ['touch OUTSIDE.canary']\n"),
        STUDY_READERS,
    ),
    "study deep": (written("study.yaml", DEEP), STUDY_READERS),
    "study escapes": (written("study.yaml", STUDY + json.dumps({ESCAPE: HTML})[1:-1]), STUDY_READERS),
    "label half a pair": (written("study.yaml", STUDY.replace("das:", r'"\ud800":')), STUDY_READERS),
    "policy deep": (written(POLICY, DEEP), POLICY_READERS),
    "policy pickle": (written(POLICY, PICKLE), POLICY_READERS),
    "policy huge": (written(POLICY, f"{HEAD}1{'0' * 9999}}}"), POLICY_READERS),
    "policy infinite": (
        written(
            POLICY,
            HEAD + '2, "policy": {"kind": "stages", "stages": [[{"weight": 1e999, "step": {"op": "identity"}}]]}}',
        ),
        POLICY_READERS,
    ),
    "policy escapes": (written(POLICY, f"{HEAD}2, {json.dumps(ESCAPE)}: {json.dumps(HTML)}}}"), POLICY_READERS),
}


def command_of(name: str, root: Path) -> list[str]:
    policy = str(root / POLICY)
    return {
        "plan": ["plan", str(root / "study.yaml")],
        "policy show": ["policy", "show", policy, "--output", str(root / "shown.png")],
        "policy export": ["policy", "export", policy, "--to", "torchvision"],
    }.get(name, [name, str(root)])


def test_what_is_no_study_of_ours_is_refused_in_words(tmp_path: Path, watch: Callable[[list[str]], Outcome]) -> None:
    wrong = {}
    for number, (name, (change, commands)) in enumerate(REFUSED.items()):
        root, outside = tmp_path / f"s{number}" / "small", tmp_path / f"s{number}" / "out" / "side"
        outside.parent.mkdir(parents=True)
        outside.write_text(f"{SECRET}\n")
        folder = make(root)
        change(folder, outside)
        before = outside.stat().st_mtime_ns
        for command in commands:
            outcome = watch(command_of(command, root))
            said = outcome.out + outcome.err
            fine = (
                outcome.code == 2
                and outcome.err.startswith("dastune: ")
                and "Traceback" not in said
                and SECRET not in said
                and all(character.isprintable() or character == "\n" for character in said)
                and len(said) < 2_000
                and not touched(outcome, root)
                and str(outside) not in opened(outcome)
                and outside.stat().st_mtime_ns == before
                and [path.name for path in outside.parent.iterdir()] == [outside.name]
            )
            if not fine:
                wrong[f"{name}: {command}"] = (outcome.code, said[-600:], touched(outcome, root))
    assert wrong == {}


class Tags(HTMLParser):
    """Keeps the tags of a page, and the attributes that run scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags |= {tag, *(name for name, _ in attrs if name.startswith("on"))}


def test_what_can_be_read_is_shown_as_text(tmp_path: Path, watch: Callable[[list[str]], Outcome]) -> None:
    folder, outside, canary = make(tmp_path / "small"), tmp_path / "outside.json", tmp_path / "canary"
    outside.write_text((folder.root / POLICY).read_text().replace("rotate", "solarize"))
    odd = f"{HTML}{ESCAPE}$\\frac"
    pickles = ("checkpoints/das-n0-s0.pt", "checkpoints/das-n0-s0.a.pt", "children/das-n0-s0.json", "ray/tuner.pkl")
    for path in (*pickles, "pending.json", "mlflow.db", "tracking.jsonl"):
        (folder.root / path).parent.mkdir(exist_ok=True)
        (folder.root / path).write_bytes(pickle.dumps(Payload(canary)))
    (folder.policies / "linked.json").symlink_to(outside)
    os.mkfifo(folder.policies / "pipe.json")
    places = [str(outside), "../outside.json", "policies/linked.json", "policies/pipe.json", "/dev/zero", "\x00", "."]
    (folder.root / POLICY).write_text(policy_text(Stages(), {odd: odd, "note": [odd, {"a": odd}]}))
    rows = [search_row(id=f"das-n0-s{seed}", search_seed=seed, policy=at) for seed, at in enumerate(places, 1)]
    rows += [search_row(id=odd, method=odd), search_row(id="none-n0-s0", method="none", summary={odd: 1e15})]
    folder.searches.write_text(lines(search_row(), *rows, DEEP, "[1]", "9" * 9999, "\x00", ESCAPE))
    folder.finals.write_text(lines(final_row(), final_row(search_id=odd, method=odd), DEEP))
    folder.ledger.write_text(lines({"search": odd, "kind": odd}, DEEP, search_row()))
    folder.env.write_text(json.dumps({odd: {odd: [odd, "\ud800", 10**300]}, "data_fingerprint": odd}))
    folder.errors.mkdir()
    (folder.errors / "das-n0-s1.txt").write_text(f"Traceback (most recent call last)\n{odd}\n")
    for command in ("report", "status", "policy show", "policy export"):
        outcome = watch(command_of(command, folder.root))
        assert outcome.code == 0, (command, outcome)
        assert "\x1b" not in outcome.out + outcome.err, command
        assert touched(outcome, folder.root) == set(), command
        assert str(outside) not in opened(outcome), command
    assert not canary.exists()
    page, text = Tags(), (folder.report / "index.html").read_text()
    script = f"<script>{files('dastune.report').joinpath('page.js').read_text()}</script>"
    assert text.count(script) == 1  # ours, which the page allows by its checksum
    page.feed(text.replace(script, ""))
    assert text.count("its policy is outside this folder and was not read") == 4
    assert "solarize" not in text
    assert not {"script", "img", "iframe", "object", "onerror", "onload"} & page.tags
    assert "<script" not in (folder.report / "tables.md").read_text()


@pytest.mark.parametrize("name", ["env.json", "searches.jsonl", "finals.jsonl", "ledger.jsonl", "errors"])
def test_what_has_no_end_is_not_waited_for(tmp_path: Path, name: str, watch: Callable[[list[str]], Outcome]) -> None:
    folder = make(tmp_path / "small")
    pipe(name)(folder, tmp_path)
    for command in ("report", "status"):
        assert watch(command_of(command, folder.root)).code == 0


@pytest.mark.parametrize("env", [DEEP, "[1]", '{"nodes": [{"device": {}, "model": [], "count": "x"}]}', '"\\ud800"'])
def test_a_report_is_made_without_an_environment(
    tmp_path: Path, env: str, watch: Callable[[list[str]], Outcome]
) -> None:
    folder = make(tmp_path / "small")
    folder.env.write_text(env)
    assert watch(command_of("report", folder.root)).code == 0


def test_a_password_that_an_older_version_kept_is_not_shown(
    tmp_path: Path, watch: Callable[[list[str]], Outcome]
) -> None:
    folder = make(tmp_path / "small")
    folder.study.write_text(f"{STUDY}tracking: {{uri: 'postgresql://anna:{SECRET}@db/mlflow'}}\n")
    assert watch(command_of("report", folder.root)).code == 0
    assert "postgresql://***@db/mlflow" in (folder.report / "index.html").read_text()
    made = [path for path in folder.report.rglob("*") if path.is_file()]
    assert not [path for path in made if SECRET in path.read_text(errors="replace")]


TEN = "x, x, x, x, x, x, x, x, x, x"
CHAIN = list(zip("abcdefgh", "bcdefghi", strict=True))
BOMB = f"a: &a [{TEN}]\n" + "".join(f"{key}: &{key} [{TEN.replace('x', f'*{of}')}]\n" for of, key in CHAIN)
MERGED = "a: &a {x: 1}\n" + "".join(f"{key}: &{key} {{<<: [{TEN.replace('x', f'*{of}')}]}}\n" for of, key in CHAIN)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{STUDY}{BOMB}", "stands for more than 100,000 values"),
        (f"{STUDY}{MERGED}", "stands for more than 100,000 values"),
        (STUDY.replace("das: {}", f"das: {{{BOMB.strip()}}}".replace("\n", ", ")), "more than 100,000 values"),
        (STUDY + "#" * 10**6, "is larger than 1,000,000 bytes"),
        (f"{STUDY}x: &x [*x]", "stands inside of what it refers to"),
        (f"x: {DEEP}", "nested too deeply"),
    ],
    ids=["aliases", "merged", "as options", "long", "endless", "deep"],
)
def test_a_study_file_has_an_end(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=why):
        load_study(path)
    assert read_plan(path) is None


@pytest.mark.parametrize(
    "change",
    [
        ("levels: [0, 2]", "levels: [.inf]"),
        ("levels: [0, 2]", "levels: [.nan]"),
        ("search: [0, 1]", f"search: {list(range(5000))}"),
        ("methods: {das: {}, random: {}, none: {}}", "methods: []"),
        ("name: small", "!!python/name:os.system"),
        ("final: [0]", f"final: {list(range(5000))}"),
    ],
    ids=["infinity", "NaN", "search seeds", "methods", "a tag", "final seeds"],
)
def test_a_plan_that_cannot_be_is_none(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace(*change).replace("levels: [0, 2]", f"levels: {list(range(100))}"))
    assert read_plan(path) is None


def test_a_link_beside_a_file_is_not_written_through(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "page.html"
    outside.write_text(SECRET)
    (tmp_path / f".page.html.{os.getpid()}.tmp").symlink_to(outside)
    path.symlink_to(outside)
    write_atomic(path, "new")
    assert outside.read_text() == SECRET
    assert path.read_text() == "new"
    assert not path.is_symlink()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in a field: rows of the declared types come out, or a UserError."""
    folder = StudyFolder(tmp_path)
    names = [field.name for field in fields(SearchRow)]
    changes = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=3), ANYTHING, max_size=2))
    row = {**search_row(), **changes}
    for name in data.draw(st.lists(st.sampled_from(names), max_size=1)):
        row.pop(name, None)
    folder.searches.write_text(lines(row))
    try:
        [read] = folder.search_rows()
    except UserError:
        return
    assert isinstance(read.method, str)
    assert type(read.noise_level) is type(read.search_seed) is type(read.steps) is int
    assert read.val_accuracy is None or 0 <= read.val_accuracy <= 1
    assert 0 <= read.noise_mass <= 1
    assert 0 <= read.charged_seconds < float("inf")
    assert all(abs(value) < float("inf") for value in read.summary.values())
