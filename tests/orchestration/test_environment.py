"""What a study ran on; and that its driver does without torch, which would be most of its memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from dastune.config import StudyConfig
from dastune.errors import UserError
from dastune.orchestration.environment import environment
from dastune.training.precision import resolved

# What a driver does before and beside its trials.
PARTS = """
import json
import sys
from pathlib import Path
from dastune.config import load_study
from dastune.folder import StudyFolder
from dastune.orchestration import driver, study, tuner
from dastune.orchestration.environment import environment
from dastune.orchestration.grid import grid
from dastune.orchestration.records import Records
from dastune.plan import plan_text
from dastune.report.page import write_report
from dastune.tracking import Tracker

config = load_study(sys.argv[1])
plan_text(config)
study._load(config)
print(json.dumps(environment()))
folder = StudyFolder(Path(sys.argv[1]).parent)
records = Records(config, folder, Tracker.__new__(Tracker))
for assignment in grid(config):
    records.start(assignment.id)
write_report(folder)
assert "torch" not in sys.modules
"""

WHOLE = """
import sys
from pathlib import Path
import dastune

result = dastune.run(dastune.load_study(sys.argv[1]), output=Path(sys.argv[1]).parent / "runs")
assert not result.missing, result.missing
again = dastune.resume(result.folder.root)
assert not again.missing
assert "torch" not in sys.modules
"""


def in_new_process(code: str, study: StudyConfig, folder: Path) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=folder, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_parts_of_a_driver_do_without_torch(study: StudyConfig, tmp_path: Path) -> None:
    told = json.loads(in_new_process(PARTS, study, tmp_path))
    # What is on record of torch is what torch, in this process, says itself.
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kinds = ["cpu", "cuda"] if gpus else ["cpu"]
    assert told["gpus"] == gpus
    assert told["cuda"] == (torch.version.cuda if gpus else None)
    assert told["precision_auto"] == {kind: resolved("auto", torch.device(kind)) for kind in kinds}
    assert told["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


@pytest.mark.slow
def test_a_whole_study_is_driven_without_torch(
    study_of: Callable[..., StudyConfig], every_method: dict[str, object], tmp_path: Path
) -> None:
    data = {"name": "digits", "train_images": 40, "validation_images": 40, "shift": [{"rotate": {"degrees": 40}}]}
    space = {"ops": ["identity", "rotate", "invert"], "noise": {"levels": [0]}}
    study = study_of(data=data, space=space, methods=every_method, seeds={"search": [0], "final": [0]})
    in_new_process(WHOLE, study, tmp_path)


def test_a_torch_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        environment()
    assert str(caught.value) == (
        "torch does not start on this machine (ImportError: libcudart.so); go on once this works: "
        f"{sys.executable} -c 'import torch'"
    )
