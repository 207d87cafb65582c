"""Does the reward of DAS tell noise ops from the others? python benchmarks/alignment.py

On digits (150 training images, 15 ops and 8 noise ops, all equally likely, tau left alone), steps 20 to 160 of 4
seeds: how much lower the standardised reward of images is that drew a noise op, in standard errors of the difference;
once with the search's preconditioned reward, once with the plain inner product of last-layer gradients. Exits 1 if the
preconditioned one tells them apart by less than 10 standard errors.
"""

import sys

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.config import load_study
from dastune.data.embedded import digits
from dastune.ops.table import OPS
from dastune.orchestration.grid import Assignment
from dastune.orchestration.setting import search_of
from dastune.search.das import (
    GRADIENT_DECAY,
    LOSS_OFFSET,
    AlignmentSearch,
    alignment,
    calibration,
    last_layer_gradient,
    observe,
)

FIRST, LAST, SEEDS, BAR = 20, 160, 4, 10.0


def rewards(search: AlignmentSearch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train with all ops equally likely; return preconditioned and plain rewards, and the ops drawn, image by image."""
    network, task = search._network, search._task  # the search's own parts, driven without its tau
    view, plain_KF = None, None
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for step in range(LAST):
        with torch.no_grad():
            images_BCHW, labels_B = task.held_out.batch(search._validation.draw())
            features_BF = network.features(task.normalise(images_BCHW))
            logits_BK = network.head(features_BF)
            view = observe(view, features_BF, logits_BK, labels_B)
            now_KF = last_layer_gradient(features_BF, logits_BK, labels_B, calibration(logits_BK, labels_B))
            plain_KF = now_KF if plain_KF is None else plain_KF.lerp(now_KF, 1 - GRADIENT_DECAY)
        images_BCHW, labels_B, drawn_SB = search._sampled_batch()
        features_BF = network.features(task.normalise(images_BCHW))
        logits_BK = network.head(features_BF)
        losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
        with torch.no_grad():
            error_BK = torch.softmax(logits_BK, 1) - F.one_hot(labels_B, logits_BK.shape[1])
            plain_B = (error_BK * (features_BF @ plain_KF.T)).sum(1)
            both = [alignment(features_BF, logits_BK, labels_B, view), plain_B]
            both = [reward_B / (losses_B + LOSS_OFFSET) for reward_B in both]
        if step >= FIRST:
            found.append((standardised(both[0]), standardised(both[1]), drawn_SB[0]))
        search._optimiser.zero_grad()
        losses_B.mean().backward()
        search._optimiser.step()
    preconditioned, plain, drawn = (torch.cat(parts) for parts in zip(*found, strict=True))
    return preconditioned, plain, drawn


def standardised(rewards_B: torch.Tensor) -> torch.Tensor:
    """Return rewards with mean 0 and standard deviation 1 over the batch, as the search uses them."""
    return (rewards_B - rewards_B.mean()) / rewards_B.std()


def separation(reward_N: torch.Tensor, noise_N: torch.Tensor) -> float:
    """Return by how many standard errors the mean reward of noise ops lies below the others'."""
    noise, others = reward_N[noise_N], reward_N[~noise_N]
    error = (noise.var() / len(noise) + others.var() / len(others)).sqrt()
    return float((others.mean() - noise.mean()) / error)


torch.set_num_threads(1)
study, dataset = load_study("digits_noise"), digits()
is_noise_K = torch.tensor([OPS[name].noise for name in study.space.at_level(8).names])
parts = []
for seed in range(SEEDS):
    search = search_of(study, Assignment("das", 8, seed), dataset, torch.device("cpu"))
    assert isinstance(search, AlignmentSearch)
    parts.append(rewards(search))
preconditioned_N, plain_N, drawn_N = (torch.cat(each) for each in zip(*parts, strict=True))
noise_N = is_noise_K[drawn_N]
ours, plain = separation(preconditioned_N, noise_N), separation(plain_N, noise_N)
print(f"preconditioned reward: noise ops {ours:.1f} standard errors below the others (bar {BAR})")
print(f"plain reward: {plain:.1f} standard errors below (no bar)")
sys.exit(ours < BAR)
