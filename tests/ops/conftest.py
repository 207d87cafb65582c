"""Real images for the ops' tests."""

import pytest
import torch
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photos_u8() -> torch.Tensor:
    """Eight crops (8, 3, 40, 56), uint8, of scikit-learn's two photographs, at a quarter of their resolution."""
    photos = torch.stack([torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images])
    small = photos[..., ::4, ::4]
    return torch.cat([small[..., y : y + 40, x : x + 56] for y in (0, 55) for x in (20, 100)])


@pytest.fixture
def photos(photos_u8: torch.Tensor) -> torch.Tensor:
    """The same as float32 in [0, 1]."""
    return photos_u8 / 255
