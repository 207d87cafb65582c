"""Random pixels from a seed per image: the same on every device, whatever else is in the batch.

Value n of an image is a hash of n and of the image's seed (a counter-based generator, as in Salmon et al., SC 2011), so
that no image's values depend on how many other images draw. The hash is C. Wellons' "lowbias32", once with each half of
the seed.
"""

import math

import torch


def uniform(seed_B: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return float32 values (B, *shape), uniform over the multiples of 2^-24 in [0, 1).

    Args:
        seed_B: int64, one per image.
        shape: of one image's values.
    """
    return (_bits(seed_B, math.prod(shape)) * 2.0**-24).view(len(seed_B), *shape)


def normal(seed_B: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return float32 values (B, *shape) from N(0, 1) (Box and Muller, 1958)."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    bits_BN = _bits(seed_B, 2 * pairs)
    radius_BN = ((bits_BN[:, :pairs] + 1) * 2.0**-24).log_().mul_(-2).sqrt_()  # the logarithm's argument is above 0
    angle_BN = bits_BN[:, pairs:] * (2 * math.pi * 2.0**-24)
    values_BN = torch.cat([radius_BN * angle_BN.cos(), radius_BN * angle_BN.sin()], 1)
    return values_BN[:, :count].reshape(len(seed_B), *shape)


def _bits(seed_B: torch.Tensor, count: int) -> torch.Tensor:
    """Return whole numbers (B, count) in 0 .. 2^24 - 1, as float32."""
    # The halves are hashed, so that near seeds do not read near parts of one sequence.
    low_B1 = _mixed(_low_bits(seed_B))[:, None]
    high_B1 = _mixed(_low_bits(seed_B >> 32) ^ 0x3C6EF372)[:, None]
    counter_N = torch.arange(count, dtype=torch.int32, device=seed_B.device) * -0x61C88647  # 2^32 / golden ratio
    bits_BN = _mixed(_mixed(counter_N + low_B1).bitwise_xor_(high_B1))
    return bits_BN.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).float()


def _low_bits(values: torch.Tensor) -> torch.Tensor:
    """Return the lowest 32 bits of int64 values, as int32 reads them."""
    return ((values & 0xFFFFFFFF) ^ 0x80000000).sub_(0x80000000).int()


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """Hash int32 values in place. Products wrap around; shifts bring in copies of the sign, which are masked off."""
    values ^= (values >> 16).bitwise_and_(0xFFFF)
    values *= 0x7FEB352D
    values ^= (values >> 15).bitwise_and_(0x1FFFF)
    values *= 0x846CA68B - 2**32
    values ^= (values >> 16).bitwise_and_(0xFFFF)
    return values
