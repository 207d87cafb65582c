"""Where trials leave what must outlive their process: named blobs, on a file system that all nodes see."""

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from dastune.errors import UserError, shortened
from dastune.folder import write_atomic

# Of each scheme, what may stand behind the "?": as in pyarrow's own URIs.
OPTIONS = {"s3": ("endpoint_override", "region", "scheme"), "gs": ("endpoint_override", "scheme")}

PLACE = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[A-Za-z0-9._=-]+)*")

# A request is given up when not a byte came for so long, and is tried so often.
CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 5, 10, 4

# What to do, by a word in what the store's client says.
_RIGHTS = (
    "give this machine's role, or the key in its environment, the rights to read, list, write and delete there "
    "(s3:GetObject, s3:ListBucket, s3:PutObject, s3:DeleteObject; on gs roles/storage.objectAdmin)"
)
_BUCKET = "make the bucket first, or correct its name"
REMEDIES = {
    "NO_SUCH_BUCKET": _BUCKET,
    "NOT_FOUND": _BUCKET,
    "ACCESS_DENIED": _RIGHTS,
    "INVALID_ACCESS_KEY_ID": _RIGHTS,
    "SIGNATURE_DOES_NOT_MATCH": _RIGHTS,
    "PERMISSION_DENIED": _RIGHTS,
    "UNAUTHENTICATED": _RIGHTS,
    "OAuth2": _RIGHTS,
}
ANY_REMEDY = (
    "see that it answers from here (network, AWS_ENDPOINT_URL or ?endpoint_override=https://HOST:PORT) and takes files"
)


class Storage(Protocol):
    """Named blobs that every node of the cluster sees; names are relative paths such as "checkpoints/das-n0-s0.pt".

    What is written is there for every later `read`, whole, whatever dies. All methods raise OSError where the storage
    does not answer or takes nothing.
    """

    def read(self, name: str) -> bytes | None:
        """Return the content of a blob, or None if there is none of this name."""

    def write(self, name: str, content: bytes) -> None:
        """Write a blob in place of what is there; readers see the old content or the new one, never a part."""

    def exists(self, name: str) -> bool:
        """Return whether there is a blob of this name."""

    def remove(self, name: str) -> None:
        """Remove a blob, if it is there."""


class FolderStorage:
    """A Storage in a folder; on several nodes a shared one (NFS, EFS, FSx, Lustre ...)."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        write_atomic(self._root / name, content)

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)


class ObjectStorage:
    """A Storage in an object store: names are keys under the prefix of s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.

    Credentials come from the environment, the user's configuration files or the machine's role, never from the URI. The
    connection is made at first use and is not pickled: another process makes its own, at the same endpoint. A call that
    is not answered is given up within a minute.

    Attributes:
        uri: as given, with the S3 endpoint and region of this process' environment where it gave none.

    Raises:
        UserError: the URI is malformed, holds a user or a secret, or has an option that is not legal.
    """

    def __init__(self, uri: str) -> None:
        self._scheme, self._place, self._options = _parsed(uri)
        if self._scheme == "s3":
            # Here, not at first use: other nodes may have another environment.
            self._options = _with_environment(self._options)
        query = urlencode(self._options, safe=":/")
        self.uri = f"{self._scheme}://{self._place}" + (f"?{query}" if query else "")

    def __reduce__(self) -> tuple[type["ObjectStorage"], tuple[str]]:
        return ObjectStorage, (self.uri,)

    def read(self, name: str) -> bytes | None:
        with _os_errors():
            while True:
                try:
                    file = self._files.open_input_file(f"{self._place}/{name}")
                    content: bytes = file.read()
                    # pyarrow asks for the size first: of an object that is replaced before the second request it
                    # would return as many bytes of the new one. (Not seen: one that is replaced twice, the second
                    # time by what it was.)
                    if self._files.open_input_file(f"{self._place}/{name}").metadata() == file.metadata():
                        return content
                except FileNotFoundError:
                    return None

    def write(self, name: str, content: bytes) -> None:
        # pyarrow's stream, dropped by an exception, makes an object of what it has. Only the main thread can be
        # interrupted, and it waits here until the object is whole.
        if threading.current_thread() is threading.main_thread():
            with ThreadPoolExecutor(1) as thread:
                thread.submit(self._put, name, content).result()
        else:
            self._put(name, content)

    def exists(self, name: str) -> bool:
        with _os_errors():
            try:
                self._files.open_input_file(f"{self._place}/{name}").close()
            except FileNotFoundError:
                return False
            return True

    def remove(self, name: str) -> None:
        with _os_errors(), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(f"{self._place}/{name}")

    def _put(self, name: str, content: bytes) -> None:
        with _os_errors():
            stream = self._files.open_output_stream(f"{self._place}/{name}")
            stream.write(content)
            stream.close()  # the object is there now, or not at all

    @cached_property
    def _files(self) -> Any:
        """The pyarrow file system of the store. Asks AWS for the bucket's region where none is known."""
        from pyarrow import fs

        if self._scheme == "gs":
            return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=ATTEMPTS * REQUEST_SECONDS), **self._options)
        options = dict(self._options)
        if "region" not in options:
            options["region"] = fs.resolve_s3_region(self._place.partition("/")[0])
        return fs.S3FileSystem(
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            # Not pyarrow's delayed open: three requests for a small blob become one, but where a large one's upload
            # could not begin, closing makes an empty object.
            allow_delayed_open=False,
            **options,
        )


def open_storage(where: str | Path) -> Storage:
    """Return the storage at a folder's path or an object store's URI; nothing is asked of it yet.

    Raises UserError if it is no path and no URI that is known.
    """
    scheme, mark, _ = str(where).partition(":")
    if isinstance(where, Path) or not (scheme in OPTIONS or (mark and str(where).startswith(f"{scheme}://"))):
        return FolderStorage(where)
    return ObjectStorage(str(where))


def inside(where: str | Path, name: str) -> str:
    """Return what opens the storage `name` within the storage `where`, on other nodes and in other folders too.

    Raises UserError as `open_storage`.
    """
    storage = open_storage(where)
    if isinstance(storage, ObjectStorage):
        place, mark, query = storage.uri.partition("?")
        return f"{place}/{name}{mark}{query}"
    return str(Path(where).absolute() / name)


def check_storage(where: str | Path) -> None:
    """Write, read and remove a blob in a storage, as a study will.

    Raises UserError, with what to do, if that fails, or as `open_storage`.
    """
    storage = open_storage(where)
    try:
        right = _gives_back(storage, f"probe-{secrets.token_hex(8)}", secrets.token_bytes(64))
    except OSError as error:
        remedy = next((remedy for sign, remedy in REMEDIES.items() if sign in str(error)), ANY_REMEDY)
        raise UserError(f"storage {_public(where)} cannot be used ({shortened(str(error), 300)}); {remedy}") from error
    if not right:
        raise UserError(f"storage {_public(where)} does not give back what was written to it; use another one")


def _gives_back(storage: Storage, name: str, content: bytes) -> bool:
    # What is not there is looked for too: S3 refuses that to those who may read but not list.
    absent = not storage.exists(name)
    storage.write(name, content)
    same = storage.read(name) == content
    storage.remove(name)
    return absent and same and storage.read(name) is None


def _parsed(uri: str) -> tuple[str, str, dict[str, str]]:
    """Return scheme, bucket with prefix, and options of an object store's URI. Raises UserError."""
    legal = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or the path of a folder"
    scheme, _, rest = uri.partition("://")
    if scheme not in OPTIONS:
        raise UserError(f"storage {_public(uri)}: {shortened(scheme)!r} is not known; give {legal}")
    place, _, query = rest.partition("?")
    if "@" in uri:
        raise UserError(
            f"storage {_public(uri)}: no user and no password belong in it; give credentials by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS) or the machine's role"
        )
    place = place.rstrip("/")
    if not PLACE.fullmatch(place) or {".", ".."} & set(place.split("/")):
        raise UserError(
            f"storage {_public(uri)} is malformed; give {legal}, the bucket in small letters, digits, '-', '_' and "
            "'.', the prefix also with '/', '=' and capitals"
        )
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        options = [("", "")]
    for name, value in options:
        if name not in OPTIONS[scheme] or not value:  # the value is not shown: it may be a secret
            raise UserError(
                f"storage {_public(uri)}: {shortened(name)!r} is no option of it, or is empty; legal: "
                + ", ".join(f"{option}=..." for option in OPTIONS[scheme])
            )
    return scheme, place, dict(options)


def _with_environment(options: dict[str, str]) -> dict[str, str]:
    """Return S3 options with the endpoint and the region that the environment gives, as AWS' own tools read them."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if "@" in endpoint:
        raise UserError("AWS_ENDPOINT_URL: no user and no password belong in it; give https://HOST:PORT")
    if endpoint:
        options = {"endpoint_override": endpoint} | options
    if "endpoint_override" not in options:
        return options  # AWS itself knows in which region a bucket is
    # Some region must be given, or pyarrow looks for EC2's metadata server.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {"region": region} | options


def _public(where: str | Path) -> str:
    """Return what may be shown of a storage's name: no user, no password, no options."""
    return shortened(re.sub(r"(\w://)[^/?]*@", r"\1", str(where)).partition("?")[0], 200)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Raise what pyarrow raises besides OSError as OSError."""
    from pyarrow import ArrowException

    try:
        yield
    except ArrowException as error:
        raise OSError(str(error)) from error
