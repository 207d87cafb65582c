"""FORMATS: the one list of forms that policies can be exported to and imported from. Imports no foreign library."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dastune.errors import UserError, nearest, shortened

if TYPE_CHECKING:
    from types import ModuleType

    from dastune.exchange.clips import ImagePolicy
    from dastune.policy.policy import Policy


@dataclass(frozen=True)
class Format:
    """A form of policies; the module of its name has `exported`, `exported_text` and `imported`.

    Attributes:
        library: the library that is needed, "" for none.
        form: what an export makes.
        sources: what an import reads, beside the library's own objects in Python.
        options: what an import may be told: arguments of `imported`.
    """

    library: str
    form: str
    sources: str
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "torchvision": Format(
        "torchvision",
        "a transform for torchvision.transforms.v2, as a Python file that needs no dastune",
        "cifar10, imagenet, svhn (its AutoAugment), rand_augment, trivial_augment_wide",
        ("image_size",),
    ),
    "albumentations": Format(
        "albumentations", "the JSON that albumentations.load reads", "the JSON that albumentations.save writes"
    ),
    "kornia": Format(
        "kornia",
        "a module of kornia's augmentations, as a Python file that needs no dastune",
        "svhn, or another policy list of its AutoAugment without color and brightness",
    ),
    "timm": Format(
        "timm",
        "the call that makes timm's transform, with a config string where one means the policy",
        "a config string; with geometric ops, in a call with hparams that say nearest: "
        "rand_augment_transform('rand-m9-n2', {'interpolation': 0})",
    ),
    "published": Format(
        "",
        "a list of sub-policies of [name, probability, level], as Fast AutoAugment and DADA publish them",
        "a list of sub-policies of [name, probability, level], in JSON or as Python writes it",
        ("grey_cutout",),
    ),
}


def export(policy: "Policy", to: str) -> Any:
    """Return `policy` as an object of the form `to`, one of FORMATS.

    A cell that averages images is exported as its paths: one of the images is drawn instead. A clip is, where one of
    its frames is drawn for each image; other clips are refused.

    Raises:
        UserError: there is no such form, its library is missing, or it cannot express the policy: names all that.
    """
    return _call(to, "exported", _as_images(policy, to))


def export_text(policy: "Policy", to: str) -> str:
    """Return the text of a file that holds `policy` in the form `to`. Raises UserError as `export`."""
    text: str = _call(to, "exported_text", _as_images(policy, to))
    return text


def import_policy(source: Any, form: str, **options: Any) -> "Policy":
    """Return the policy of `source`, a text or an object of the form `form`, one of FORMATS.

    Args:
        source: see `Format.sources`.
        form: one of FORMATS.
        options: see `Format.options`, and the form's own `imported`.

    Raises:
        UserError: there is no such form or option, the form's library is missing, or `source` is none of that form or
            means what no policy can.
    """
    for option in options:
        if option not in _format(form).options:
            raise UserError(f"{shortened(option)} is no option of an import from {form}")
    from pydantic import ValidationError  # here, since the command line's help needs the table only

    try:
        policy: Policy = _call(form, "imported", source, **options)
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UserError(f"no policy can mean this: {shortened(why, most=200)}") from error
    return policy


def _as_images(policy: "Policy", to: str) -> "ImagePolicy":
    _format(to)
    from dastune.exchange.clips import as_images  # here, as above

    return as_images(policy, to)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"'{shortened(name)}' is no form of policies; {nearest(name, FORMATS)}")
    return FORMATS[name]


def _call(name: str, function: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of the form's module; say which library to install where it is missing."""
    form = _format(name)
    try:
        module: ModuleType = import_module(f"dastune.exchange.{name}")
        return getattr(module, function)(*arguments, **options)
    except ModuleNotFoundError as error:
        if not form.library or (error.name or "").partition(".")[0] != form.library:
            raise
        raise UserError(f"{form.library} is not installed; pip install 'dastune[{form.library}]'") from error
