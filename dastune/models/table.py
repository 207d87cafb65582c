"""MODELS: the one list of networks and how a study names them. Imports torch only when a network is built."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dastune.models import arithmetic
from dastune.models.arithmetic import Arithmetic

if TYPE_CHECKING:
    from dastune.models.network import Network


@dataclass(frozen=True)
class Model:
    """One kind of network: the module that holds it, its class, and what a forward pass takes.

    `arithmetic` is called with the number of classes, the side of the images in pixels, and the network's options.
    """

    module: str
    class_name: str
    arithmetic: Callable[..., Arithmetic]

    def build(self, classes: int, **options: Any) -> "Network":
        """Return a new network for `classes` classes; its weights come from torch's default generator."""
        network: Network = getattr(import_module(f"dastune.models.{self.module}"), self.class_name)(classes, **options)
        return network


MODELS: dict[str, Model] = {
    "wide_resnet": Model("wide_resnet", "WideResNet", arithmetic.wide_resnet),
    "resnet": Model("resnet", "ResNet", arithmetic.resnet),
    "small_cnn": Model("small_cnn", "SmallCNN", arithmetic.small_cnn),
}
