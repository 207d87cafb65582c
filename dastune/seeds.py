"""Independent random streams from one seed and a name."""

import hashlib
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    import torch


def derive(*parts: SupportsIndex | str) -> int:
    """Return a 63-bit seed that is a fixed function of `parts`.

    Streams named differently are independent: ``derive(3, "split")`` has nothing to do with ``derive(3, "weights")``.
    """
    # Whole numbers of numpy count as Python's.
    text = "\x1f".join(f"str:{part}" if isinstance(part, str) else f"int:{index(part)}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: SupportsIndex | str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a new generator on `device`, seeded with `derive(*parts)`."""
    import torch

    return torch.Generator(device).manual_seed(derive(*parts))
