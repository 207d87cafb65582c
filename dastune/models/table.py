"""MODELS: the one list of networks and how a study names them. Imports torch only when a network is built."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dastune.models.network import Network


@dataclass(frozen=True)
class Model:
    """One kind of network: the module that holds it and its class."""

    module: str
    class_name: str

    def build(self, classes: int, **options: Any) -> "Network":
        """Return a new network for `classes` classes; its weights come from torch's default generator."""
        network: Network = getattr(import_module(f"dastune.models.{self.module}"), self.class_name)(classes, **options)
        return network


MODELS: dict[str, Model] = {
    "wide_resnet": Model("wide_resnet", "WideResNet"),
    "small_cnn": Model("small_cnn", "SmallCNN"),
}
