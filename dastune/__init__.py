"""dastune: augmentation policies searched side by side, under one metered device-time budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dastune.augment.video import transform_of as transform
    from dastune.config import load_study
    from dastune.exchange.table import export
    from dastune.orchestration.study import resume, run
    from dastune.policy.policy import load_policy

__all__ = ["export", "load_policy", "load_study", "resume", "run", "transform"]

# Loaded on first use, so that `import dastune` stays light.
_LAZY = {
    "export": ("dastune.exchange.table", "export"),
    "load_policy": ("dastune.policy.policy", "load_policy"),
    "load_study": ("dastune.config", "load_study"),
    "resume": ("dastune.orchestration.study", "resume"),
    "run": ("dastune.orchestration.study", "run"),
    "transform": ("dastune.augment.video", "transform_of"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
