"""Makes an MLflow model of a trained network, in a process of its own: python -m dastune.tracking.packing SPEC

A driver does without torch, which would take more memory than all else in it, and MLflow's own way to a model goes
through the process' global tracking URI, which may be the user's. Here 0.9 GB are held for some seconds, and given
back.

The model is a graph and its weights (torch.export, MLflow's format pt2): it is loaded without dastune, and no code of
anybody's is unpickled.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import Model, infer_signature

from dastune.tracking.model_store import TRY_AGAIN
from dastune.training.trained import trained_from_bytes


def pack(source: Path, target: Path, **ids: Any) -> None:
    """Write the MLflow model of the trained network in the file `source` as the new folder `target`.

    Args:
        ids: what MLflow knows the model by (`Model`).
    """
    trained = trained_from_bytes(source.read_bytes())
    # Two images: of one, torch.export takes the size of the batch for fixed.
    example_BCHW = np.full((2, *trained.image_CHW), 0.5, np.float32)
    with torch.no_grad():
        logits_BK = trained(torch.from_numpy(example_BCHW)).numpy()
    mlflow.pytorch.save_model(
        trained,
        target,
        mlflow_model=Model(**ids),
        signature=infer_signature(example_BCHW, logits_BK),
        input_example=example_BCHW,
        serialization_format="pt2",
        pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "mlflow")],  # else MLflow looks for them
    )


def main(spec: dict[str, str]) -> None:
    """Pack what `spec` says; end with TRY_AGAIN where another try may help."""
    torch.set_num_threads(1)  # searches may run on this machine
    try:
        pack(Path(spec.pop("source")), Path(spec.pop("target")), **spec)
    except OSError as error:  # a full disk
        print(error, file=sys.stderr)
        sys.exit(TRY_AGAIN)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
