"""What a study listens on, whom it speaks to and what it writes down: a real one, in a network of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[1]
STUDY = """\
name: small
data: {name: digits, train_images: 40, validation_images: 40}
model: {name: small_cnn, channels: 4}
space: {ops: [identity, rotate, invert]}
methods: {das: {}, rand_augment: {search: tpe}, none: {}}
budget: {steps: 12}
seeds: {search: [0], final: [0]}
training: {batch_size: 20, child_epochs: 2}
final: {epochs: 2}
"""
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "secret-of-tracking-7d1e",
    "AWS_SECRET_ACCESS_KEY": "secret-of-storage-7d1e",
    "PGPASSWORD": "secret-of-database-7d1e",
    "RAY_AUTH_TOKEN": "secret-of-ray-7d1e-7d1e-7d1e-7d1e-7d1e",
}
IN_URI = "secret-in-a-uri-7d1e"
WATCHED = ["RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"]
LOOPBACK = {"127.0.0.1", "::1"}

# Runs in a network namespace whose only interface, lo, is the way to everywhere else too: so every packet for elsewhere
# is seen. Each command is told with what it printed, where anything listened, what Ray's daemons have of the variables
# in the first argument, and the packets for elsewhere.
NETWORK = r"""
import ctypes, ipaddress, json, os, socket, struct, subprocess, sys
from pathlib import Path

OWN = "198.51.100.1"

def shell(line):
    subprocess.run(line, shell=True, check=True, capture_output=True)

shell(f"ip link set lo up && ip addr add {OWN}/32 dev lo && ip route add default dev lo")
Path("resolv.conf").write_text("nameserver 203.0.113.53\noptions timeout:1 attempts:1\n")
shell("mount --bind resolv.conf /etc/resolv.conf")
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
own = int(ipaddress.ip_address(OWN))
program = [(0x28, 0, 0, 12), (0x15, 0, 5, 0x0800), (0x20, 0, 0, 30), (0x15, 3, 0, own), (0x54, 0, 0, 0xFF000000),
           (0x15, 1, 0, 0x7F000000), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]  # IPv4, and neither to OWN nor to 127/8
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
SO_ATTACH_FILTER = 26
sniffer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
sniffer.setblocking(False)

def packets():
    found = []
    while True:
        try:
            packet = sniffer.recv(65535)
        except BlockingIOError:
            return found
        found.append(f"{ipaddress.ip_address(packet[30:34])} {packet[42:90]!r}")

def address(text):
    raw = bytes.fromhex(text)
    ip = ipaddress.ip_address(b"".join(raw[at:at + 4][::-1] for at in range(0, len(raw), 4)))
    return str(getattr(ip, "ipv4_mapped", None) or ip)

def listeners():
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                yield address(local.partition(":")[0])

def daemons():
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or os.readlink(process / "ns/net") != os.readlink("/proc/self/ns/net"):
                continue
            name = Path((process / "cmdline").read_bytes().split(b"\0")[0].decode()).name
            if name in ("raylet", "gcs_server"):
                pairs = (pair.partition(b"=") for pair in (process / "environ").read_bytes().split(b"\0"))
                yield name, {key.decode(): value.decode() for key, _, value in pairs}
        except OSError:  # it has ended
            continue

def runs(process):
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return True
    return False

def answer(url):
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    try:
        with socket.create_connection((name, int(port)), timeout=5) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return connection.makefile("rb").read().decode()
    except OSError:
        return ""

packets()  # what came before the filter
server = None
for line in sys.stdin:
    asked = json.loads(line)
    listen, variables, page = set(), {}, ""
    with open("out", "w+") as out, open("err", "w+") as err:
        process = subprocess.Popen(asked["command"], stdout=out, stderr=err, env={**os.environ, **asked["env"]})
        while runs(process) and not page:
            listen |= set(listeners())
            for name, environment in daemons():
                variables.setdefault(name, {key: environment.get(key) for key in json.loads(sys.argv[1])})
            page = answer(asked["url"]) if asked["url"] else ""
        if page and asked["stay"]:
            server = process
        elif page:
            process.terminate()
            process.wait()
    told = {"code": process.returncode, "out": Path("out").read_text(), "err": Path("err").read_text(), "page": page}
    told |= {"packets": packets(), "listen": sorted(listen), "daemons": variables}
    print(json.dumps(told), flush=True)
if server is not None:
    server.terminate()
    server.wait()
"""


@dataclass(frozen=True)
class Seen:
    """What was seen of a command.

    Attributes:
        code: of its exit; None of a server that still runs.
        page: the answer of a server.
        packets: those for elsewhere, by address and first bytes.
        listen: the addresses that anything listened on.
        daemons: Ray's by name, each with what it has of the variables of WATCHED.
    """

    code: int | None
    out: str
    err: str
    page: str
    packets: list[str]
    listen: list[str]
    daemons: dict[str, dict[str, str | None]]


class Network:
    """A network that ends at this machine."""

    def __init__(self, home: Path, process: "subprocess.Popen[str]") -> None:
        self.home, self._process = home, process

    def see(
        self, *command: str, env: Mapping[str, str] | None = None, url: str | None = None, stay: bool = False
    ) -> Seen:
        """Run Python to its end; a server until `url` answers, or longer if it is to `stay`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"command": [sys.executable, *command], "env": {**(env or {})}, "url": url, "stay": stay}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Seen(**json.loads(self._process.stdout.readline()))

    def dastune(self, *arguments: str, env: Mapping[str, str] | None = None, url: str | None = None) -> Seen:
        return self.see("-m", "dastune", *arguments, env=env, url=url)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network of its own, with nothing of this process' environment but what programs need.

    Libraries send nothing home where they take themselves to be tested.
    """
    private = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    if subprocess.run([*private, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces are permitted here")
    home = Path(tempfile.mkdtemp(prefix="priv"))  # short: Ray keeps sockets in it
    (home / "study.yaml").write_text(STUDY)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
        "HOME": str(home),
        "RAY_TMPDIR": str(home / "ray"),
        "TMPDIR": str(home),
    }
    command = [*private, sys.executable, "-c", NETWORK, json.dumps(WATCHED)]
    with subprocess.Popen(
        command, cwd=home, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        yield Network(home, process)
        process.stdin.close()
        assert process.wait(60) == 0
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def ran(network: Network) -> Seen:
    """A whole study, with everything at its default."""
    return network.dastune("run", "study.yaml")


def elsewhere(seen: Seen) -> list[str]:
    """Return the packets to elsewhere but for Ray's question to the cloud it runs in, if any, which it is.

    Ray asks it at every start, for usage statistics that are off then; the answer goes nowhere.
    """
    cloud = ("169.254.169.254 ", "\\x08metadata\\x06google\\x08internal")
    return [packet for packet in seen.packets if not any(part in packet for part in cloud)]


def test_the_network_shows_who_is_spoken_to(network: Network) -> None:
    """Without this, the others would hold of a network that shows nothing."""
    code = (
        "import socket\n"
        "socket.socket(2, 2).sendto(b'here', ('203.0.113.1', 9))\n"
        "try:\n    socket.getaddrinfo('example.org', 1)\nexcept OSError:\n    pass"
    )
    sent, *asked = elsewhere(network.see("-c", code))
    assert sent.startswith("203.0.113.1 ")
    assert "here" in sent
    assert any(packet.startswith("203.0.113.53 ") and "example" in packet for packet in asked)


def test_a_study_listens_on_loopback_only(ran: Seen) -> None:
    assert ran.code == 0, ran.err
    assert ran.daemons.keys() == {"gcs_server", "raylet"}
    assert ran.listen
    assert set(ran.listen) <= LOOPBACK


def test_a_study_speaks_to_nobody(network: Network, ran: Seen) -> None:
    assert elsewhere(ran) == []
    for arguments in (["plan", "study.yaml"], ["report", "runs/small"], ["resume", "runs/small"]):
        seen = network.dastune(*arguments)
        assert seen.code == 0, seen.err
        assert seen.packets == []
        assert seen.listen == []


def test_ray_is_told_to_report_nothing_and_to_ask_for_a_token(network: Network, ran: Seen) -> None:
    """A token that others may read would be none."""
    told = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    assert ran.daemons == {"raylet": told, "gcs_server": told}
    assert [path for path in network.home.glob(".ray/*") if path.stat().st_mode & 0o077] == []


def test_the_ui_listens_on_loopback_and_speaks_to_nobody(network: Network, ran: Seen) -> None:
    """Its telemetry settings, which a browser asks for, would come from elsewhere."""
    url = "http://127.0.0.1:5017/ajax-api/3.0/mlflow/ui-telemetry"
    seen = network.dastune("ui", "runs/small", "--port", "5017", url=url)
    assert "200 OK" in seen.page
    assert json.loads(seen.page.partition("\r\n\r\n")[2])["disable_ui_telemetry"] is True
    assert set(seen.listen) == {"127.0.0.1"}
    assert seen.packets == []


def test_a_person_may_choose_otherwise(network: Network) -> None:
    """Usage statistics of a Ray that a program starts are Ray's own choice: off."""
    seen = network.dastune("doctor", env={"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"})
    assert seen.code == 0, seen.err
    assert seen.daemons["raylet"] == {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    assert not set(seen.listen) <= LOOPBACK


def test_no_secret_is_written_or_said(network: Network) -> None:
    """Neither into the study's folder nor MLflow's store nor Ray's logs, nor by a store that does not answer."""
    secrets = {**SECRETS, "MLFLOW_TRACKING_URI": f"http://anna:{IN_URI}@127.0.0.1:5018"}
    study = ["run", "study.yaml", "--output", "secret"]
    alone = network.dastune(*study, env=secrets)
    assert alone.code == 2
    assert "http://127.0.0.1:5018 cannot be used" in alone.err
    server = ["-m", "mlflow", "server", "--port", "5018", "--workers", "1", "--backend-store-uri", "sqlite:///kept.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    network.see(*server, env=quiet, url="http://127.0.0.1:5018/health", stay=True)
    served = network.dastune(*study, env=secrets)
    assert served.code == 0, served.err
    seen = [alone, served, network.dastune("report", "secret/small", env=secrets)]
    files = [path for path in network.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"study.yaml", "searches.jsonl", "index.html", "kept.db", "raylet.out"}
    for secret in (*SECRETS.values(), IN_URI):
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
        assert [one for one in seen if secret in one.out + one.err] == []
