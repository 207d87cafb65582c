"""The command line as a user meets it: light, clear about faults, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dastune.policy.policy import Choice, Edge, Genotype, Stages, Step, policy_text

CHECKOUT = Path(__file__).parents[1]


def dastune(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dastune", *arguments]
    env = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def fault(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "digits_noise"],
        ["plan", "cifar10_noise"],
        ["policy", "--help"],
        ["policy", "export", "--help"],
    ],
)
def test_help_and_plan_load_no_heavy_package(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['dastune', *{arguments!r}]\n"
        "from dastune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'matplotlib', 'pandas', 'optuna', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stderr.strip().endswith("HEAVY []")


def test_import_loads_no_heavy_package(tmp_path: Path) -> None:
    code = "import sys, dastune; print(sorted({'torch', 'ray', 'mlflow', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_plan_counts_searches_and_device_time(tmp_path: Path) -> None:
    changes = ["--set", "seeds.search=[0,1]", "--set", "space.noise.levels=[0,3]", "--budget", "0.5 cpu-hours"]
    result = dastune("plan", "digits_noise", *changes, cwd=tmp_path)
    assert result.returncode == 0
    assert "24 searches = 6 methods x 2 noise levels x 2 seeds" in result.stdout
    # 4 of the 6 methods search: 16 searches of half an hour.
    assert "16 x 30 CPU-minutes = 8 CPU-hours" in result.stdout
    assert "noise level 3   18 ops" in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "methods.dass={}"], "did you mean 'das'?"),
        (["--set", "data.trian_images=5"], "did you mean 'train_images'?"),
        (["--set", "space.noise.levels=[0,99]"], "level 99"),
        (["--set", "seeds.search=[1,1]"], "1 is given twice"),
        (["--set", "methods={}"], "methods"),
        (["--set", "methods.das.estimator=first_order"], "methods.das.validation: with estimator first_order, clean"),
        (["--set", "name=../evil"], "folder name"),
        (["--budget", "3 gpu-hours"], "resources.gpus"),
        (["--budget", "soon"], "cpu-seconds"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_faulty_study_is_one_message_and_nothing_else(
    command: str, changes: list[str], message: str, tmp_path: Path
) -> None:
    assert message in fault(dastune(command, "digits_noise", *changes, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("name: x\ndata: {name: digit}\nmethods: {das: {stages: many}}\nbudget: {steps: 0}\nseed: 1\n")
    message = fault(dastune("run", "study.yaml", cwd=tmp_path))
    for part in ("did you mean 'digits'?", "methods.das.stages", "budget.steps", "seed"):
        assert part in message


def test_an_existing_study_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits_noise").mkdir(parents=True)
    (tmp_path / "runs" / "digits_noise" / "study.yaml").write_text("name: theirs")
    assert "dastune resume runs/digits_noise" in fault(dastune("run", "digits_noise", cwd=tmp_path))


@pytest.mark.slow
def test_a_missing_data_set_names_the_remedy(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"
    changes = ["--set", f"data.root={tmp_path / 'data'}", "--set", "resources={cpus: 1}", "--budget", "5 cpu-seconds"]
    result = dastune("run", "cifar10_noise", *changes, cwd=tmp_path, http_proxy=closed, https_proxy=closed, no_proxy="")
    assert "--set data.root=FOLDER" in fault(result)
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_output_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--output" in fault(dastune("run", "digits_noise", "--output", "file/runs", cwd=tmp_path))


@pytest.mark.parametrize("command", ["resume", "status", "report", "ui"])
def test_a_folder_without_a_study_is_told(command: str, tmp_path: Path) -> None:
    assert "holds no study" in fault(dastune(command, "nowhere", cwd=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "no study is given"),
        (("one", "two"), "say where: --output DIR"),
        (("one", "--output", "one"), "a study's folder"),
        (("one", "one", "--output", "out"), "is given twice"),
        (("one", "--price-per-hour", "nan"), "must be a number from 0 on"),
        (("one", "--price-per-hour", "-1"), "must be a number from 0 on"),
        (("--from-mlflow", "sqlite:///none.db"), "takes --experiment NAME"),
        (("one", "--from-mlflow", "sqlite:///none.db", "--experiment", "x"), "and no folder of a study"),
        (("one", "--experiment", "x"), "say which: --from-mlflow URI"),
        (("--from-mlflow", "sqlite:///none.db", "--experiment", "x"), "sqlite:///none.db: there is no such file"),
    ],
)
def test_reports_that_cannot_be_are_told(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text("name: small\n")
    assert why in fault(dastune("report", *arguments, cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["one", "study.yaml", "study.yaml", "two"]


def test_a_report_of_several_studies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text("name: small\n")
    made = dastune("report", "one", "two", "--output", "out", "--price-per-hour", "0", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.endswith("report  out/index.html\n")
    assert (tmp_path / "out" / "one" / "index.html").exists()
    assert not (tmp_path / "one" / "report").exists()


def test_status_loads_no_heavy_package_and_prints_text_or_json(tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    plan = dastune("plan", "digits_noise", cwd=tmp_path).stdout
    (root / "study.yaml").write_text(plan.partition("# every field, defaults filled in\n")[2])
    shown = dastune("status", "study", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("digits_noise: not begun; 0 of 54 searches and 0 of 54 final trainings done\n")
    assert "go on with dastune resume study\n" in shown.stdout
    code = (
        "import sys\n"
        "sys.argv = ['dastune', 'status', 'study', '--json']\n"
        "from dastune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'matplotlib', 'pandas', 'optuna', 'numpy', 'scipy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "HEAVY []"
    assert json.loads(result.stdout)["totals"]["waiting"] == 54


def test_packaged_studies_say_how_to_run_them() -> None:
    for path in sorted((CHECKOUT / "search_spaces").glob("*.yaml")):
        comment = path.read_text().partition("\nname:")[0]
        assert f"dastune run {path.stem}" in comment or f"dastune run search_spaces/{path.name}" in comment


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_where_nothing_answers_is_told(address: str, tmp_path: Path) -> None:
    message = fault(dastune("run", "digits_noise", "--address", address, cwd=tmp_path))
    assert address in message
    assert not list(tmp_path.iterdir())


LIST = '[[["Invert", 0.1, 0.0], ["Contrast", 0.9, 0.8]], [["Solarize", 0.5, 0.4]]]'
TURN = Choice(weight=3, step=Step(op="rotate", high=20))
NOISE = Stages(stages=((TURN, Choice(weight=1, step=Step(op="constant"))),))


def test_a_policy_is_imported_shown_and_exported(tmp_path: Path) -> None:
    made = dastune("policy", "import", LIST, "--from", "published", "--output", "p.json", cwd=tmp_path)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "wrote p.json\n")
    (tmp_path / "p.png").write_text("an older picture")
    shown = dastune("policy", "show", "p.json", "--images", "2", "--draws", "3", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    for part in (
        "2 sub-policies",
        "solarize 0.4016 of white (p 0.5)",
        "noise mass: 0.0 %",
        "read_from: [[[",
        "p.png (replaced)",
    ):
        assert part in shown.stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    piped = dastune("policy", "export", "p.json", "--to", "published", cwd=tmp_path)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert json.loads(piped.stdout) == json.loads(LIST)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_helps_have_the_whole_examples(columns: str, tmp_path: Path) -> None:
    lines = dastune("policy", "import", "--help", cwd=tmp_path, COLUMNS=columns).stdout.split()
    assert "rand_augment_transform('rand-m9-n2', {'interpolation': 0})" in " ".join(lines)
    assert "a list of sub-policies of [name, probability, level]" in " ".join(lines)
    assert "…" not in "".join(lines)


def test_what_is_exported_to_a_file_is_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(policy_text(Stages(), {}))
    command = ["policy", "export", "p.json", "--to", "published"]
    printed = dastune(*command, cwd=tmp_path).stdout
    assert dastune(*command, "--output", "list.json", cwd=tmp_path).returncode == 0
    assert (tmp_path / "list.json").read_text() == printed
    assert "--overwrite" in fault(dastune(*command, "--output", "list.json", cwd=tmp_path))
    assert dastune(*command, "--output", "list.json", "--overwrite", cwd=tmp_path).returncode == 0


def test_a_cell_that_averages_is_exported_with_a_word_on_standard_error(tmp_path: Path) -> None:
    edges = (Edge(source=0, step=Step(op="invert")), Edge(source=0, step=Step(op="equalize")))
    (tmp_path / "cell.json").write_text(policy_text(Genotype(nodes=(edges,)), {}))
    result = dastune("policy", "export", "cell.json", "--to", "published", cwd=tmp_path)
    assert "averages images" in result.stderr
    assert len(json.loads(result.stdout)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none.json"], "none.json: cannot be read"),
        (["show", "bad.json"], "bad.json: is no JSON"),
        (["show", "p.json", "--output", "p.jpg"], "write p.png"),
        (["show", "p.json", "--data", "cifar11"], "did you mean 'cifar10'?"),
        (["show", "p.json", "--images", "0"], "--images"),
        (["show", "p.json", "--output", f"{'x' * 300}.png"], "File name too long"),
        (["export", "p.json", "--to", "torchvision", "--output", "x" * 300], "constant"),
        (["import", "cifar10", "--from", "torchvision", "--output", "x" * 300], "File name too long"),
        (["import", "cifar10", "--from", "x" * 9999], "is no form of policies"),
        (["export", "p.json", "--to", "timmm"], "did you mean 'timm'?"),
        (["export", "p.json", "--to", "published", "--output", "x"], "constant (weight 1 in stage 0)"),
        (["import", "cifar11", "--from", "torchvision", "--output", "x"], "did you mean 'cifar10'?"),
        (["import", "none.json", "--from", "published", "--output", "x"], "none.json: there is no such file"),
        (["import", "[[1, 2", "--from", "published", "--output", "x"], "is no list"),
        (["import", "cifar10", "--from", "timm", "--grey-cutout"], "grey_cutout is no option"),
        (["import", "cifar10", "--from", "torchvision", "--image-size", "big"], "--image-size 'big'"),
    ],
)
def test_faults_of_policies_are_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(policy_text(NOISE, {}))
    (tmp_path / "bad.json").write_text("{")
    result = dastune("policy", *arguments, cwd=tmp_path)
    assert message in " ".join(fault(result).split())
    assert len(result.stderr) < 2000
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "p.json"]
