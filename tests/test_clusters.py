"""clusters/: what can be checked of launch files without a cloud, Kubernetes or Slurm."""

import copy
import importlib.metadata
import itertools
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement

from dastune.cli import app
from dastune.config import load_study

CHECKOUT = Path(__file__).parents[1]
CLUSTERS = CHECKOUT / "clusters"
RAY_UP = ("aws", "gcp", "on_prem")
FILES = sorted(path for path in CLUSTERS.iterdir() if path.is_file())
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
Prepare = Callable[[dict[str, Any]], dict[str, Any]]


def read(name: str) -> str:
    return (CLUSTERS / name).read_text()


def ray_up(name: str) -> dict[str, Any]:
    config = yaml.safe_load(read(f"{name}.yaml"))
    assert isinstance(config, dict)
    return config


# For `ray up`


@pytest.fixture(scope="module")
def prepared() -> Prepare:
    """What `ray up` does to a file before it asks the provider anything; raises where that would refuse it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    def prepare(config: dict[str, Any]) -> dict[str, Any]:
        whole = prepare_config(copy.deepcopy(config))
        validate_config(whole)
        return dict(whole)

    return prepare


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_it(name: str, prepared: Prepare) -> None:
    config = prepared(ray_up(name))
    # Nothing of Ray's own defaults is left, which install nightly wheels.
    assert "ray-wheels" not in json.dumps(config)
    assert config["setup_commands"] == ray_up(name)["setup_commands"]
    for command in [*config["head_setup_commands"], *config["worker_setup_commands"]]:
        assert command in ray_up(name)["setup_commands"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_refuses_a_misspelt_key(name: str, prepared: Prepare) -> None:
    from jsonschema import ValidationError

    with pytest.raises(ValidationError, match="head_start_commands"):
        prepared(ray_up(name) | {"head_start_commands": []})


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_head_takes_no_trials_and_workers_are_spot(name: str, prepared: Prepare) -> None:
    config = prepared(ray_up(name))
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    [worker] = [each for label, each in types.items() if label != config["head_node_type"]]
    study = load_study("cifar10_noise")
    assert worker["resources"]["CPU"] >= study.resources.cpus
    assert worker["resources"]["GPU"] >= study.resources.gpus
    # dastune counts slots when it begins, and the whole cluster must be allowed to be there.
    assert worker["min_workers"] == worker["max_workers"] == config["max_workers"] > 0
    spot = "SPOT" if name == "gcp" else "spot"
    assert f'"{spot}"' in json.dumps(worker["node_config"])
    assert f'"{spot}"' not in json.dumps(head["node_config"])


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_start_lines_parse_and_bind_to_loopback(name: str) -> None:
    from ray.scripts.scripts import start

    config = ray_up(name)
    for key, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        [command] = [line for line in config[key] if "ray start" in line]
        arguments = shlex.split(command.partition("ray start")[2])
        options = start.make_context("start", arguments).params
        assert options["head"] is is_head
        if is_head:
            assert (options["num_cpus"], options["num_gpus"]) == (0, 0)
            assert options["dashboard_host"] == "127.0.0.1"
            assert options["disable_usage_stats"] is True
            assert options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"  # else no worker is ever started


@pytest.mark.parametrize("name", RAY_UP)
def test_every_node_has_the_token_and_the_environment(name: str, tmp_path: Path) -> None:
    config = ray_up(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    [command] = [line for line in config["setup_commands"] if ".bashrc" in line]
    for _ in range(2):  # `ray up` runs it again after every change
        subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=True)
    assert (tmp_path / ".bashrc").read_text().count("export") == 1
    shell = ["bash", "-c", "source ~/.bashrc; env -0"]
    env = subprocess.run(shell, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True, text=True)
    values = dict(entry.split("=", 1) for entry in env.stdout.split("\0") if entry)
    assert values["PATH"].startswith(f"{tmp_path}/dastune-venv/bin:")
    assert values["RAY_AUTH_MODE"] == "token"
    assert values["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert (values["MLFLOW_DISABLE_TELEMETRY"], values["DO_NOT_TRACK"]) == ("true", "true")
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"


def test_files_for_ray_up_differ_in_their_provider_only() -> None:
    """What starts Ray and MLflow is the same line in all three."""
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts"):
        assert ray_up("aws")[key] == ray_up("gcp")[key] == ray_up("on_prem")[key]


# MLflow


def mlflow_servers() -> dict[str, dict[str, str]]:
    """The options of the `mlflow server` in each file."""
    servers = {}
    for name in RAY_UP:
        [line] = [line for line in ray_up(name)["head_start_ray_commands"] if "mlflow server" in line]
        servers[f"{name}.yaml"] = line.partition("mlflow server")[2].partition(";")[0]
    for name in ("slurm.sh", "README.md"):
        [servers[name]] = re.findall(r"\bmlflow server (--[^&\n]*)&", read(name).replace("\\\n", " "))
    container = kuberay_containers()["mlflow"]
    assert container["command"][:2] == ["mlflow", "server"]
    servers["kuberay.yaml"] = shlex.join([*container["command"][2:], *container["args"]])
    pairs = re.compile(r"--([\w-]+)(?:[ =](?!--)(\S+))?")
    return {where: dict(pairs.findall(line.replace('"', ""))) for where, line in servers.items()}


def test_mlflow_servers_are_alike_and_on_loopback() -> None:
    """That MLflow takes these options is seen where one is started."""
    servers = mlflow_servers()
    assert servers.keys() == {"aws.yaml", "gcp.yaml", "on_prem.yaml", "kuberay.yaml", "slurm.sh", "README.md"}
    for options in servers.values():
        assert options.pop("backend-store-uri").startswith("sqlite:///")
        assert options.pop("artifacts-destination").startswith(("/", "$"))
        assert options == {
            "host": "127.0.0.1",
            "port": "5000",
            "workers": "1",
            "allowed-hosts": "localhost:5000,127.0.0.1:5000",
            "serve-artifacts": "",
        }


@pytest.mark.cluster
def test_the_line_that_starts_mlflow_does(tmp_path: Path, free_port: int) -> None:
    lines = [line for line in ray_up("aws")["head_start_ray_commands"] if "127.0.0.1:5000" in line]
    script = "set -e\n" + "\n".join(lines).replace("5000", str(free_port))
    env = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    try:
        for _ in range(2):  # `ray up` again finds it running
            subprocess.run(["bash", "-c", script], env=env, check=True, timeout=150, capture_output=True)
        url = f"http://127.0.0.1:{free_port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        with urllib.request.urlopen(url, timeout=30) as answer:
            experiment = json.load(answer)["experiment"]
        assert experiment["artifact_location"].startswith(
            "mlflow-artifacts:"
        )  # through the server, as --serve-artifacts
        assert (tmp_path / "mlflow" / "mlflow.db").is_file()
        with pytest.raises(HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "mlflow.example"}), timeout=30)
    finally:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode()
            except OSError:  # has ended
                continue
            if f"--port\0{free_port}\0" in command:
                os.kill(int(process.name), signal.SIGTERM)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Kubernetes
#
# The fields that our file uses, and no others. Those of ray.io/v1 from KubeRay's docs/reference/api.md at commit
# 0057210 (between 1.4 and 1.5), authOptions from the same reference of 1.6.2; those of core/v1 from the Kubernetes API
# reference, 1.28. A field that is not here fails: look it up, and add it.

TEXT, NUMBER, SWITCH, MAP = str, int, bool, dict[str, str]
QUANTITIES = {"requests": MAP, "limits": MAP}
CONTAINER = {
    "name": TEXT,
    "image": TEXT,
    "command": [TEXT],
    "args": [TEXT],
    "env": [{"name": TEXT, "value": TEXT}],
    "resources": QUANTITIES,
    "volumeMounts": [{"name": TEXT, "mountPath": TEXT}],
    "readinessProbe": {
        "exec": {"command": [TEXT]},
        "periodSeconds": NUMBER,
        "timeoutSeconds": NUMBER,
        "failureThreshold": NUMBER,
    },
}
NODE_TERM = {"matchExpressions": [{"key": TEXT, "operator": TEXT, "values": [TEXT]}]}
POD_TEMPLATE = {
    "spec": {
        "securityContext": {"fsGroup": NUMBER},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [NODE_TERM]}}
        },
        "nodeSelector": MAP,
        "tolerations": [{"key": TEXT, "operator": TEXT, "value": TEXT, "effect": TEXT}],
        "containers": [CONTAINER],
        "volumes": [{"name": TEXT, "persistentVolumeClaim": {"claimName": TEXT}}],
    }
}
RAY_CLUSTER_SPEC = {
    "rayVersion": TEXT,
    "authOptions": {"mode": TEXT},
    "headGroupSpec": {"serviceType": TEXT, "rayStartParams": MAP, "template": POD_TEMPLATE},
    "workerGroupSpecs": [
        {
            "groupName": TEXT,
            "replicas": NUMBER,
            "minReplicas": NUMBER,
            "maxReplicas": NUMBER,
            "rayStartParams": MAP,
            "template": POD_TEMPLATE,
        }
    ],
}
KINDS = {
    ("ray.io/v1", "RayJob"): {
        "entrypoint": TEXT,
        "submissionMode": TEXT,
        "backoffLimit": NUMBER,
        "shutdownAfterJobFinishes": SWITCH,
        "ttlSecondsAfterFinished": NUMBER,
        "rayClusterSpec": RAY_CLUSTER_SPEC,
    },
    ("v1", "PersistentVolumeClaim"): {
        "accessModes": [TEXT],
        "storageClassName": TEXT,
        "resources": {"requests": MAP},
    },
}


def misfits(value: Any, form: Any, path: str = "") -> list[str]:
    """Return the paths in `value` whose name or type is not the one of `form`."""
    if form == MAP:
        fits = isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)
        return [] if fits else [path]
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return [path]
        unknown = [f"{path}.{key}" for key in value if key not in form]
        return unknown + [
            fault for key in value.keys() & form for fault in misfits(value[key], form[key], f"{path}.{key}")
        ]
    if isinstance(form, list):
        if not isinstance(value, list):
            return [path]
        return [fault for index, each in enumerate(value) for fault in misfits(each, form[0], f"{path}[{index}]")]
    return [] if type(value) is form else [path]


def kuberay() -> dict[str, dict[str, Any]]:
    """The objects of kuberay.yaml by name."""
    return {each["metadata"]["name"]: each for each in yaml.safe_load_all(read("kuberay.yaml"))}


def kuberay_pods() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pods of the head and of the workers."""
    cluster = kuberay()["dastune"]["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]


def kuberay_containers() -> dict[str, dict[str, Any]]:
    return {container["name"]: container for pod in kuberay_pods() for container in pod["containers"]}


def test_fields_of_the_ray_job_are_kuberays() -> None:
    for name, each in kuberay().items():
        assert each.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert misfits(each["spec"], KINDS[each["apiVersion"], each["kind"]], name) == []


def test_a_misspelt_field_is_found() -> None:
    job = kuberay()["dastune"]["spec"]
    job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["toleration"] = []
    job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0  # KubeRay wants text
    assert set(misfits(job, KINDS["ray.io/v1", "RayJob"])) == {
        ".rayClusterSpec.headGroupSpec.rayStartParams",
        ".rayClusterSpec.headGroupSpec.template.spec.toleration",
    }


def test_the_ray_job_says_what_it_must() -> None:
    from ray.scripts.scripts import start

    job = kuberay()["dastune"]["spec"]
    assert job["entrypoint"].startswith("dastune run cifar10_noise --resume --address auto --output /shared/runs ")
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    parameters = cluster["headGroupSpec"]["rayStartParams"]
    options = start.make_context("start", ["--head", *(f"--{key}={value}" for key, value in parameters.items())]).params
    assert (options["num_cpus"], options["num_gpus"]) == (0, 0)
    head, worker = kuberay_pods()
    # Workers go to spot nodes, the head does not.
    assert worker["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "cloud.google.com/gke-spot" in {each["key"] for each in worker["tolerations"]}
    assert "tolerations" not in head
    assert kuberay_containers()["ray-worker"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # Every mount has its volume, every volume its claim, and what all pods mount may be mounted by many nodes.
    for pod in (head, worker):
        volumes = {each["name"]: each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"]}
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts == volumes.keys()
        for claim in volumes.values():
            modes = kuberay()[claim]["spec"]["accessModes"]
            assert modes == (["ReadWriteMany"] if claim == "dastune-shared" else ["ReadWriteOnce"])
    assert "dastune-mlflow" not in json.dumps(worker)


def test_containers_send_nothing_home() -> None:
    for container in kuberay_containers().values():
        env = {each["name"]: each["value"] for each in container["env"]}
        assert (env["MLFLOW_DISABLE_TELEMETRY"], env["DO_NOT_TRACK"]) == ("true", "true")
        if container["name"] != "mlflow":
            assert env["RAY_USAGE_STATS_ENABLED"] == "0"


# Slurm


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([shellcheck, CLUSTERS / "slurm.sh"], capture_output=True, text=True)
    assert found.stdout + found.stderr == ""


# What the script calls. Each leaves a line of its arguments in $CALLS. `dastune run` says over a fifo that it runs, and
# then waits for whatever the test has it wait for.
FAKES = {
    "srun": """
        record srun "$@"
        while [[ $1 == --* ]]; do shift; done
        exec "$@"
    """,
    "scontrol": """
        record scontrol "$@"
        if [[ $1 == show ]]; then printf '%s\\n' first second; fi
    """,
    "ray": """
        record ray "$@"
        case $1 in
          --version) echo "ray, version ${FAKE_RAY_VERSION:-2.60.0}" ;;
          get-auth-token) record umask "$(umask)"; echo 0123-the-token ;;
          symmetric-run)
            if [[ -n ${FAKE_RAY_FAILS:-} ]]; then echo "Failed to start Ray" >&2; exit 0; fi
            while [[ $1 != -- ]]; do shift; done
            shift
            "$@"
            ;;
        esac
    """,
    "mlflow": 'record mlflow "$@"',
    "curl": 'record curl "$@"',
    "dastune": """
        record dastune "$@"
        case $1 in
          run)
            if [[ -n ${FAKE_WAITS:-} ]]; then
              echo runs > "$FAKE_WAITS"
              read -r _ < "$FAKE_STOP"
            fi
            exit "$FAKE_CODE"
            ;;
          stop) mkdir -p "$2"; touch "$2/stop"; echo stop > "$FAKE_STOP" ;;
        esac
    """,
}


class Batch:
    """A batch job of slurm.sh in a folder, with the fakes in front of its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs, self.stop = folder / "runs.fifo", folder / "stop.fifo"
        fakes = folder / "bin"
        fakes.mkdir()
        record = 'record() { printf "%s\\t" "$@" >> "$CALLS"; echo >> "$CALLS"; }\n'
        for name, body in FAKES.items():
            (fakes / name).write_text(f"#!/usr/bin/env bash\nset -eu\n{record}{body}\n")
            (fakes / name).chmod(0o755)
        os.mkfifo(self.runs)
        os.mkfifo(self.stop)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_", "SLURM_"))}
        self.env = kept | {
            "PATH": f"{fakes}:{os.environ['PATH']}",
            "CALLS": str(folder / "calls"),
            "FAKE_STOP": str(self.stop),
            "FAKE_CODE": "0",
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_GPUS_ON_NODE": "4",
        }

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        command = ["bash", str(CLUSTERS / "slurm.sh"), *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.env | env, **pipes)

    def await_run(self) -> None:
        """Return once the fake `dastune run`, told to by FAKE_WAITS, runs."""
        fifo = os.open(self.runs, os.O_RDWR)
        try:
            assert select.select([fifo], [], [], 60)[0], "the script does not come to `dastune run`"
        finally:
            os.close(fifo)

    def run(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        job = self.start(*arguments, **env)
        output, _ = job.communicate(timeout=60)
        return job.returncode, output

    def calls(self, program: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [call[1:] for line in lines if (call := line.removesuffix("\t").split("\t"))[0] == program]


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def test_a_study_that_ends_is_not_requeued(batch: Batch) -> None:
    code, output = batch.run("cifar10_noise", "--set", "data.root=/data set")
    assert code == 0
    assert ["requeue", "77"] not in batch.calls("scontrol")
    runs = str(batch.folder / "runs")
    assert batch.calls("dastune") == [
        shlex.split(
            f"run cifar10_noise --resume --address auto --output {runs} --set name=cifar10_noise "
            "--set 'data.root=/data set'"
        ),
    ]
    assert "0123-the-token" not in output
    assert ["get-auth-token", "--generate"] in batch.calls("ray")
    assert batch.calls("umask") == [["0077"]]  # Ray itself would make a file that all may read
    assert not list(Path(runs).glob("*.exit-*"))


def test_ray_takes_what_srun_is_to_start(batch: Batch) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    batch.run("digits_noise")
    [srun] = batch.calls("srun")
    step = list(itertools.takewhile(lambda argument: argument.startswith("--"), srun))
    assert "--cpus-per-task=32" in step
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(step)
    assert {"--wait=0", "--kill-on-bad-exit=0"} <= set(step)
    assert srun[len(step) : len(step) + 2] == ["ray", "symmetric-run"]
    arguments = srun[len(step) + 2 :]
    ours = arguments[: arguments.index("--")]
    params = symmetric_run.make_context("symmetric-run", list(ours), resilient_parsing=True).params
    assert (params["address"], params["min_nodes"]) == ("first:6379", 2)
    for place in (["--head"], ["--address", "first:6379"]):
        options = start.make_context("start", [*place, *curate_and_validate_ray_start_args(list(ours))]).params
        assert (options["num_cpus"], options["num_gpus"]) == (32, 4)


@pytest.mark.parametrize("end", [0, 1, 2, 130])
def test_after_the_notice_only_a_stopped_study_is_requeued(batch: Batch, end: int) -> None:
    job = batch.start("studies/mine.yaml", FAKE_WAITS=str(batch.runs), FAKE_CODE=str(end))
    batch.await_run()
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=60)
    folder = batch.folder / "runs" / "mine"
    assert batch.calls("dastune")[1:] == [["stop", str(folder)]]
    assert (folder / "stop").exists()
    assert (["requeue", "77"] in batch.calls("scontrol")) == (end == 130), output
    assert job.returncode == end


def test_a_study_that_a_person_stopped_is_not_requeued(batch: Batch) -> None:
    code, _ = batch.run("digits_noise", FAKE_CODE="130")
    assert code == 130
    assert ["requeue", "77"] not in batch.calls("scontrol")


@pytest.mark.parametrize("end", [1, 2])
def test_a_failure_is_not_requeued(batch: Batch, end: int) -> None:
    code, _ = batch.run("digits_noise", FAKE_CODE=str(end))
    assert code == end
    assert ["requeue", "77"] not in batch.calls("scontrol")


def test_a_ray_that_did_not_start_is_a_failure(batch: Batch) -> None:
    """`ray symmetric-run` itself ends with 0 then; and what an earlier job left says nothing."""
    (batch.folder / "runs").mkdir()
    (batch.folder / "runs" / "digits_noise.exit-77").write_text("0\n")
    code, output = batch.run("digits_noise", FAKE_RAY_FAILS="1")
    assert code == 1
    assert "Ray did not start" in output
    assert batch.calls("dastune") == []


def test_another_ray_is_refused(batch: Batch) -> None:
    code, output = batch.run("digits_noise", FAKE_RAY_VERSION="2.61.0")
    assert code == 2
    assert "pip install 'ray[tune]==2.60.0'" in output
    assert batch.calls("dastune") == []


def test_a_study_must_be_named(batch: Batch) -> None:
    code, output = batch.run()
    assert (code, output) == (2, "usage: sbatch clusters/slurm.sh STUDY [options of dastune run]\n")


def test_a_server_of_ones_own_is_used(batch: Batch) -> None:
    batch.run("digits_noise", MLFLOW_TRACKING_URI="http://mlflow.example:5000")
    assert batch.calls("mlflow") == []
    batch.run("digits_noise")
    [server] = batch.calls("mlflow")
    assert f"sqlite:///{batch.folder}/runs/mlflow/mlflow.db" in server


def test_slurm_is_asked_for_a_notice_and_whole_nodes() -> None:
    asked = re.findall(r"^#SBATCH (.*)$", read("slurm.sh"), re.MULTILINE)
    assert {"--signal=B:USR1@300", "--requeue", "--exclusive", "--ntasks-per-node=1", "--open-mode=append"} <= set(
        asked
    )


# All files


def test_ray_is_pinned_to_the_version_that_is_tested() -> None:
    tested = importlib.metadata.version("ray")
    pins = [
        (path.name, pin)
        for path in FILES
        for pin in re.findall(
            r"ray(?:\[\w+\])?==(\d[\w.]*\w)|rayproject/ray:([\d.]+)|rayVersion: (\S+)|-ray([\d.]+\d)|\* (\d[\d.]+)\"",
            path.read_text(),
        )
    ]
    assert {name for name, _ in pins} == {path.name for path in FILES}
    assert {next(filter(None, pin)) for _, pin in pins} == {tested}
    for text in [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]:
        requirement = Requirement(text)
        if requirement.name == "ray":
            assert requirement.specifier.contains(tested)


def test_the_wheel_is_this_version() -> None:
    named = {version for path in FILES for version in re.findall(r"dastune[-:](\d+\.\d+\.\d+)", path.read_text())}
    assert named == {PROJECT["version"]}


SECRETS = {
    "AWS key": (r"\bA(KIA|SIA)[0-9A-Z]{16}\b", "AKIA" + "A1" * 8),
    "AWS id": (r"\b(ami|sg|subnet|vpc|fs|vol|i)-[0-9a-f]{8,17}\b", "sg-0123456789abcdef0"),
    "account": (r"(?<![\w.])\d{12}(?!\w)", "arn:aws:iam::123456789012:role/x"),
    "long hexadecimal": (r"\b[0-9a-f]{32,}\b", "0123456789abcdef" * 4),
    "private key": (r"PRIVATE KEY", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    "Google key": (r"\bAIza[\w-]{20,}|\bya29\.", "AIza" + "x" * 35),
    "service account": (r"\b[\w-]+@[\w-]+\.iam\.gserviceaccount\.com", "x@y.iam.gserviceaccount.com"),
    "GitHub token": (r"\bgh[pousr]_\w{20,}", "ghp_" + "a" * 36),
    "password or token": (
        r"(?i)(password|secret|token)[\"']?\s*[:=]\s*[\"']?(?!token\b)[\w/+]{8,}",
        "password: hunter22",
    ),
    "URI with a password": (r"\w+://[^\s/@:]+:[^\s/@]+@", "postgresql://me:hunter2@host/db"),
    "address": (r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)(\d{1,3}\.){3}\d{1,3}\b", "10.0.0.7"),
}


@pytest.mark.parametrize("what", SECRETS)
def test_no_file_holds_a_secret(what: str) -> None:
    pattern, example = SECRETS[what]
    assert re.search(pattern, example)
    for path in FILES:
        found = re.search(pattern, path.read_text())
        assert not found, f"{path.name}: {found}"


CLI: Any = typer.main.get_command(app)


def dastune_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield where, and the arguments of, every command of ours in the files: the README's code, the others' lines."""
    for path in FILES:
        text = path.read_text().replace("\\\n", " ")
        if path.suffix == ".md":
            blocks = re.findall(r"^```\n.*?^```", text, re.DOTALL | re.MULTILINE)
            spans = re.findall(r"(?<!`)`[^`]+`(?!`)", text)
            text = "\n".join([*blocks, *(span.replace("\n", " ") for span in spans)])
        for line in re.findall(r"(?<![\w/.:#-])dastune ([a-z][^`'\n;&|]*)", text):
            words = line.split()
            if len(words) > 1 and (path.suffix == ".md" or words[0] in CLI.commands):
                yield path.name, shlex.split(line, comments=True)


@pytest.mark.parametrize("command", list(dastune_commands()), ids=lambda it: f"{it[0]}: {shlex.join(it[1])}")
def test_our_command_in_a_file_parses(command: tuple[str, list[str]]) -> None:
    _, (name, *arguments) = command
    CLI.commands[name].make_context(name, [each for each in arguments if each != "$@"])


def test_our_commands_are_found() -> None:
    found = {(where, arguments[0]) for where, arguments in dastune_commands()}
    assert {("kuberay.yaml", "run"), ("slurm.sh", "run"), ("slurm.sh", "stop")} <= found
    assert {("README.md", name) for name in ("run", "resume", "status", "stop", "doctor", "plan")} <= found


def test_the_study_costs_what_the_readme_says() -> None:
    """By the study's fields, not by `dastune plan`."""
    text = read("README.md")
    study = yaml.safe_load((CHECKOUT / "search_spaces" / "cifar10_noise.yaml").read_text())
    free = {"uniform", "trivial", "standard"}
    published = {label for label, each in study["methods"].items() if each.get("method") == "published"}
    levels, seeds = len(study["space"]["noise"]["levels"]), len(study["seeds"]["search"])
    searched = (len(study["methods"].keys() - free - published)) * levels * seeds
    searches = searched + len(free) * levels * seeds + len(published) * seeds
    hours = searched * study["budget"]["gpu_hours"]
    images = searches * len(study["seeds"]["final"]) * study["final"]["epochs"] * 50_000
    final_hours = images / 5_000 / 3600
    assert (searches, searched, hours) == (370, 225, 5_400)
    for line in (
        f"| {searches} |",
        f"| {searched} |",
        f"{searched} x {study['budget']['gpu_hours']} GPU-hours | {hours:,} GPU-hours",
        f"= {images / 1e9:.1f} billion images",
        f"| {final_hours:.0f} GPU-hours at R = 5,000 |",
        f"hours = ({hours:,} + {final_hours:.0f}) / G",
        f"G = 8: {(hours + final_hours) / 8:.0f} hours, {(hours + final_hours) / 8 / 24:.0f} days",
        f"G = 32: {(hours + final_hours) / 32:.0f} hours, {(hours + final_hours) / 32 / 24:.1f} days",
        f"1.25 x {hours:,} = {1.25 * hours:,.0f} GPU-hours",
        f"180 x 24 = {(searched - levels * seeds) * 24:,} GPU-hours",
        f"45 x 24 =\n{5 * 3 * 3 * 24:,} GPU-hours",
    ):
        assert line in text, line
