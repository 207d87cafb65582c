"""The network of a study."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from dastune.config.fields import Count, FieldError, Number, Strict


class WideResNetModel(Strict):
    """Wide ResNet (arXiv 1605.07146)."""

    name: Literal["wide_resnet"]
    """Name of the network."""
    depth: Count = 28
    """Layers: 10, 16, 22, 28, 34, 40 ..."""
    width: Count = 2
    """Widening factor of the channels."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Dropout probability inside the blocks."""

    @property
    def label(self) -> str:
        """The network in a word, such as wide_resnet-28-2."""
        return f"{self.name}-{self.depth}-{self.width}" + (f"-dropout{self.dropout:g}" if self.dropout else "")

    @field_validator("depth")
    @classmethod
    def _blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            raise FieldError("must be 6 n + 4 with n at least 1 (10, 16, 22, 28, 34, 40 ...)")
        return depth


class ResNetModel(Strict):
    """ResNet (arXiv 1512.03385), as torchvision has it, untrained."""

    name: Literal["resnet"]
    """Name of the network."""
    depth: Literal[18, 34, 50, 101, 152] = 18
    """Layers."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """What comes first: a 7 x 7 convolution of stride 2 and a max pool (the DAS paper's at all sizes of images), or one
    3 x 3 convolution of stride 1."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Dropout probability before the last layer."""

    @property
    def label(self) -> str:
        """The network in a word, such as resnet-18 or resnet-18-small-dropout0.5."""
        stem = "-small" if self.stem == "small" else ""
        return f"{self.name}-{self.depth}{stem}" + (f"-dropout{self.dropout:g}" if self.dropout else "")


class SmallCNNModel(Strict):
    """Three convolutions, for tiny images on a CPU."""

    name: Literal["small_cnn"]
    """Name of the network."""
    channels: Count = 16
    """Channels of the first layer; the others have 2 and 4 times as many."""

    @property
    def label(self) -> str:
        """The network in a word, such as small_cnn-16."""
        return f"{self.name}-{self.channels}"


Model: TypeAlias = Annotated[WideResNetModel | ResNetModel | SmallCNNModel, Field(discriminator="name")]
