"""What a network computes in, float32 or bfloat16, and how its images lie in memory: what is fast on which device."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]


def resolved(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return what `precision` means on `device`: "auto" is bfloat16 where the device has it in hardware.

    "bfloat16" is taken at its word: where the hardware does not have it, torch emulates it, slowly.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether `device` multiplies bfloat16 in hardware: a GPU from Ampere on, a CPU with AVX512-BF16 or AMX.

    A CPU counts as one without where torch is too old to tell.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def fastest_layout(precision: Precision, device: torch.device) -> torch.memory_format:
    """Return the faster layout of images and of convolutions' weights.

    Channels last is what oneDNN and bfloat16 tensor cores work in. A GPU in float32 is left with torch's default.
    """
    if device.type == "cuda" and precision == "float32":
        return torch.contiguous_format
    return torch.channels_last
