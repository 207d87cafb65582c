"""What all tests share: one torch thread, so that tests beside each other do not fight for cores; an S3 server."""

import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class S3Server:
    """moto's S3 over HTTP, on a port of loopback that stays the same when it is stopped and started again.

    Attributes:
        fault: called with each request's environ; what it returns is answered in place of S3's own answer, None is
            no fault. It may wait.
        requests: (method, path, query) of each request so far.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._server: Any = None
        self._port = 0
        self.fault: Callable[[dict[str, Any]], str | None] = lambda environ: None
        self.requests: list[tuple[str, str, str]] = []
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")))
        code = self.fault(environ)
        if code is None:
            return self._s3(environ, start)
        if "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"].read()
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("403 Forbidden", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with the bucket "studies", and an environment in which s3:// is that server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it writes a line for each request
    server = S3Server()
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    with urllib.request.urlopen(
        urllib.request.Request(f"{server.endpoint}/moto-api/reset", method="POST")  # moto's state is its process'
    ):
        server.make_bucket("studies")
    server.requests.clear()
    yield server
    server.stop()
