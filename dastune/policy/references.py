"""Policies that others have published, by name: where they come from, and how they are read. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A published policy.

    Attributes:
        source: where it is published, and what it was found for.
        auto_augment: the name of one of torchvision's three AutoAugment policies, or "".
        rand_augment: (N, M) on the paper's scale over the space `ra-paper`, or None.
    """

    source: str
    auto_augment: str = ""
    rand_augment: tuple[int, int] | None = None


def _auto_augment(name: str, data: str) -> Reference:
    return Reference(f"AutoAugment (arXiv 1805.09501), found on {data}; as torchvision has it", auto_augment=name)


def _rand_augment(n: int, m: int, where: str) -> Reference:
    return Reference(f"RandAugment (arXiv 1909.13719), N = {n}, M = {m}, best for {where}", rand_augment=(n, m))


# RandAugment's rows whose M is beyond the end of the ranges (14 for CIFAR-100 with WRN-28-10, for one) are left out.
REFERENCES: dict[str, Reference] = {
    "aa-cifar10": _auto_augment("cifar10", "reduced CIFAR-10"),
    "aa-svhn": _auto_augment("svhn", "reduced SVHN"),
    "aa-imagenet": _auto_augment("imagenet", "reduced ImageNet"),
    "ra-cifar10-wrn-28-2": _rand_augment(3, 4, "CIFAR-10 with WRN-28-2"),
    "ra-cifar10-wrn-28-10": _rand_augment(3, 5, "CIFAR-10 with WRN-28-10"),
    "ra-cifar10-shake-shake": _rand_augment(3, 9, "CIFAR-10 with Shake-Shake"),
    "ra-cifar10-pyramid": _rand_augment(3, 7, "CIFAR-10 with PyramidNet"),
    "ra-cifar100-wrn-28-2": _rand_augment(1, 2, "CIFAR-100 with WRN-28-2"),
    "ra-svhn-core-wrn": _rand_augment(3, 9, "SVHN's core set with WRN-28-2 and WRN-28-10"),
    "ra-svhn-wrn-28-2": _rand_augment(3, 5, "SVHN with WRN-28-2"),
    "ra-svhn-wrn-28-10": _rand_augment(3, 7, "SVHN with WRN-28-10"),
    "ra-imagenet-resnet-50": _rand_augment(2, 9, "ImageNet with ResNet-50"),
}
