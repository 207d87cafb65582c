"""Storages: one contract for a folder and for an object store behind real HTTP, and what each fault becomes."""

import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dastune import storage as storage_module
from dastune.errors import UserError
from dastune.storage import FolderStorage, ObjectStorage, Storage, check_storage, inside, open_storage

if TYPE_CHECKING:
    from tests.conftest import S3Server

URI = "s3://studies/some/prefix"
NAME = "checkpoints/das-n0-s0.pt"
PART_BYTES = 10 * 1024 * 1024  # pyarrow sends larger blobs in several parts


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return FolderStorage(tmp_path / "storage")
    request.getfixturevalue("s3")
    return ObjectStorage(URI)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after a second."""
    monkeypatch.setattr(storage_module, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(storage_module, "ATTEMPTS", 1)


# The contract


def test_what_is_written_is_read(storage: Storage) -> None:
    for content in (b"", b"\x00bytes\xff\n", bytes(range(256)) * 1000):
        storage.write(NAME, content)
        assert storage.read(NAME) == content
        assert storage.exists(NAME)


def test_what_is_not_there_is_none(storage: Storage) -> None:
    assert storage.read(NAME) is None
    assert not storage.exists(NAME)
    storage.remove(NAME)
    assert not storage.exists(NAME)


def test_a_removed_blob_is_gone_and_the_others_are_not(storage: Storage) -> None:
    storage.write(NAME, b"one")
    storage.write("stop", b"")
    storage.remove(NAME)
    assert storage.read(NAME) is None
    assert storage.exists("stop")
    storage.write(NAME, b"two")
    assert storage.read(NAME) == b"two"


def test_a_shorter_blob_takes_the_place_of_a_longer_one(storage: Storage) -> None:
    storage.write(NAME, b"long" * 1000)
    storage.write(NAME, b"short")
    assert storage.read(NAME) == b"short"


def test_a_large_blob_goes_both_ways(storage: Storage) -> None:
    content = b"0123456789abcdef" * (PART_BYTES // 16) + b"tail"
    storage.write(NAME, content)
    assert storage.read(NAME) == content


def test_another_process_opens_the_same(storage: Storage) -> None:
    storage.write(NAME, b"content")
    assert pickle.loads(pickle.dumps(storage)).read(NAME) == b"content"


def test_readers_see_one_content_or_the_other(storage: Storage) -> None:
    contents = [bytes([index]) * length for index, length in enumerate([100_000, 70_000, 130_000] * 8)]
    storage.write(NAME, contents[0])
    done = threading.Event()

    def write() -> None:
        for content in contents:
            storage.write(NAME, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(storage.read(NAME))
    writer.join()
    assert seen
    assert all(content in contents for content in seen)


def test_a_storage_that_can_be_used_is_left_as_it_was(s3: "S3Server", tmp_path: Path) -> None:
    check_storage(tmp_path)
    assert list(tmp_path.iterdir()) == []
    check_storage(URI)
    written = {path for method, path, _ in s3.requests if method == "PUT" and not path.endswith("/")}
    removed = {path for method, path, _ in s3.requests if method == "DELETE"}
    assert written == removed
    assert len(written) == 1


# Objects


def test_keys_are_names_under_the_prefix(s3: "S3Server") -> None:
    ObjectStorage(URI + "/").write(NAME, b"content")
    assert ObjectStorage("s3://studies/some").read(f"prefix/{NAME}") == b"content"
    assert ObjectStorage("s3://studies").read(f"some/prefix/{NAME}") == b"content"


def test_another_environment_reaches_the_same_server(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    sent = pickle.dumps(storage)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_REGION")
    assert pickle.loads(sent).read(NAME) == b"content"
    assert open_storage(storage.uri).read(NAME) == b"content"


@pytest.mark.parametrize("form", ["http://{}", "{}&scheme=http"])
def test_the_endpoint_may_be_in_the_uri(s3: "S3Server", monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    endpoint = form.format(s3.endpoint.removeprefix("http://"))
    check_storage(f"{URI}?endpoint_override={endpoint}")


def test_a_blob_replaced_while_it_is_read_is_not_cut(s3: "S3Server") -> None:
    storage, other = ObjectStorage(URI), ObjectStorage(URI)
    other.write(NAME, b"old")  # which connects: that would wait for the answer that waits for it below
    contents = [b"new and longer"]

    def replace(environ: dict[str, Any]) -> None:
        if environ["REQUEST_METHOD"] == "GET" and contents:
            other.write(NAME, contents.pop())

    s3.fault = replace
    assert storage.read(NAME) == b"new and longer"


@pytest.mark.parametrize("size", [100, PART_BYTES + 100])
@pytest.mark.parametrize("refused", ["uploads", "partNumber", "uploadId"])
def test_a_write_that_is_refused_anywhere_leaves_the_old_content(s3: "S3Server", size: int, refused: str) -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"old")
    s3.fault = lambda environ: (
        "AccessDenied"
        if environ["REQUEST_METHOD"] in ("POST", "PUT") and environ["QUERY_STRING"].startswith(refused)
        else None
    )
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        storage.write(NAME, b"n" * size)
    s3.fault = lambda environ: None
    assert storage.read(NAME) == b"old"


def test_an_interrupted_write_is_whole(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C where pyarrow's stream is open: dropped there, it would leave an empty object."""
    import _thread

    storage = ObjectStorage(URI)
    storage.write(NAME, b"old")
    s3.fault = lambda environ: _thread.interrupt_main() if environ["QUERY_STRING"] == "uploads" else None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what begins in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            storage.write(NAME, b"new")
    finally:
        signal.signal(signal.SIGINT, before)
    assert storage.read(NAME) == b"new"


# Faults

CALLS: list[Callable[[Storage], object]] = [
    lambda storage: storage.read(NAME),
    lambda storage: storage.write(NAME, b"new"),
    lambda storage: storage.exists(NAME),
    lambda storage: storage.remove(NAME),
]


def test_a_server_that_comes_back_is_used_again(s3: "S3Server", quick: None) -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    s3.stop()
    for call in CALLS:
        with pytest.raises(OSError, match="NETWORK_CONNECTION"):
            call(storage)
    with pytest.raises(UserError, match="see that it answers from here"):
        check_storage(URI)
    s3.start()
    assert storage.read(NAME) == b"content"


def test_a_server_that_accepts_and_says_nothing_is_given_up(s3: "S3Server", quick: None) -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    over = threading.Event()
    s3.fault = lambda environ: None if over.wait(60) else "SlowDown"
    with pytest.raises(OSError, match="Timeout"):
        storage.read(NAME)
    over.set()


def test_a_slow_server_is_waited_for(s3: "S3Server") -> None:
    delay = threading.Event()  # never set

    def slow(environ: dict[str, Any]) -> None:
        delay.wait(0.1)

    s3.fault = slow
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    assert storage.read(NAME) == b"content"


def test_what_is_refused_for_the_moment_is_tried_again(s3: "S3Server") -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    answers = ["SlowDown", "SlowDown"]
    s3.fault = lambda environ: answers.pop() if answers and environ["QUERY_STRING"] == "uploads" else None
    storage.write(NAME, b"new")
    assert storage.read(NAME) == b"new"
    assert not answers


def test_a_server_that_refuses(s3: "S3Server") -> None:
    storage = ObjectStorage(URI)
    storage.write(NAME, b"content")
    s3.fault = lambda environ: "AccessDenied"
    for call in CALLS:
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            call(storage)
    with pytest.raises(UserError, match=r"s3://studies/some/prefix .*ACCESS_DENIED.*; give .*the rights.*ListBucket"):
        check_storage(URI)


def test_who_may_read_and_write_but_not_delete_is_told(s3: "S3Server") -> None:
    s3.fault = lambda environ: "AccessDenied" if environ["REQUEST_METHOD"] == "DELETE" else None
    with pytest.raises(UserError, match=r"ACCESS_DENIED.*s3:DeleteObject"):
        check_storage(URI)


def test_a_bucket_that_is_not_there(s3: "S3Server") -> None:
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        ObjectStorage("s3://nothing/here").write(NAME, b"content")
    with pytest.raises(UserError, match="make the bucket first"):
        check_storage("s3://nothing/here")


def test_a_folder_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        check_storage(tmp_path / "file")


def test_google_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    storage = ObjectStorage("gs://studies/prefix?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(OSError, match=r"UNAVAILABLE|UNAUTHENTICATED"):
        storage.exists(NAME)


# URIs


@pytest.mark.parametrize("path", ["runs/storage", "/mnt/nfs", "a:b", "./s3", Path("s3:/x")])
def test_what_is_no_uri_is_a_folder(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not str(path).startswith("/"):
        open_storage(path).write(NAME, b"content")
        assert (tmp_path / path / NAME).read_bytes() == b"content"
    assert isinstance(open_storage(path), FolderStorage)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s4://bucket/x", "'s4' is not known; give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the path of a folder"),
        ("file:///x", "'file' is not known"),
        ("://x", "'' is not known"),
        ("s3:bucket", "give s3://BUCKET/PREFIX"),
        ("s3://", "malformed"),
        ("s3:///prefix", "malformed"),
        ("s3://Bucket/x", "malformed"),
        ("s3://bucket:9000/x", "malformed"),
        ("s3://bucket/a b", "malformed"),
        ("s3://bucket/a%20b", "malformed"),
        ("s3://bucket//x", "malformed"),
        ("s3://bucket/../x", "malformed"),
        ("s3://bucket/x\n", "malformed"),
        ("s3://bucket/x?zap=1", "'zap' is no option of it, or is empty; legal: endpoint_override=..., region=..."),
        ("s3://bucket/x?region", "is no option"),
        ("s3://bucket/x?region=", "'region' is no option of it, or is empty"),
        ("gs://bucket/x?region=y", "'region' is no option"),
    ],
)
def test_a_uri_that_is_not_legal_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(uri)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/x",
        "gs://hunter2@bucket/x",
        "s3://bucket/x?endpoint_override=http://u:hunter2@host",
        "s3://bucket/x?secret_key=hunter2",
        "hunter2x://u:hunter2@h/",
    ],
)
def test_no_secret_is_taken_or_shown(uri: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(uri)
    assert "hunter2" not in str(error.value).replace("hunter2x", "")


def test_no_secret_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://u:hunter2@host")
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
        ObjectStorage(URI)


def test_inside_opens_the_inner_storage_from_anywhere(
    s3: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ObjectStorage(URI).write("digits/stop", b"")
    where = inside(URI, "digits")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert open_storage(where).exists("stop")
    monkeypatch.chdir(tmp_path)
    assert inside("storage", "digits") == str(tmp_path / "storage" / "digits")
