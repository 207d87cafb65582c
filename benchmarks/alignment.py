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
from dastune.search.alignment import (
    GRADIENT_DECAY,
    alignment,
    calibration,
    last_layer_gradient,
    observe,
    standardised,
)
from dastune.search.das import DASSearch
from dastune.search.supernet import Supernet, aside
from dastune.seeds import generator
from dastune.training.loop import Batches

FIRST, LAST, SEEDS, BAR = 20, 160, 4, 10.0
VALIDATION_BATCH = 64


def rewards(supernet: Supernet, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train with all ops equally likely; return preconditioned and plain rewards, and the ops drawn, image by image."""
    task, random = supernet.task, generator(seed, "alignment benchmark")
    train = Batches(len(task.train), task.recipe.batch_size, seed)
    validation = Batches(len(task.held_out), VALIDATION_BATCH, seed)
    view, plain_KF = None, None
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        supernet.cell.tau_EK.zero_()
    for step in range(LAST):
        with torch.no_grad(), aside(supernet.network):
            images_BCHW, labels_B = task.held_out.batch(validation.draw())
            features_BF, logits_BK = supernet.outputs(images_BCHW)
            view = observe(view, features_BF, logits_BK, labels_B)
            now_KF = last_layer_gradient(features_BF, logits_BK, labels_B, calibration(logits_BK, labels_B))
            plain_KF = now_KF if plain_KF is None else plain_KF.lerp(now_KF, 1 - GRADIENT_DECAY)
        images_BCHW, labels_B = task.train.batch(train.draw())
        images_BCHW, draws = supernet.cell.sample(images_BCHW, random)
        features_BF, logits_BK = supernet.outputs(images_BCHW)
        losses_B = F.cross_entropy(logits_BK, labels_B, reduction="none")
        if step >= FIRST:
            with torch.no_grad():
                error_BK = torch.softmax(logits_BK, 1) - F.one_hot(labels_B, logits_BK.shape[1])
                plain_B = (error_BK * (features_BF @ plain_KF.T)).sum(1)
                both = alignment(features_BF, logits_BK, labels_B, view), plain_B
                ours_B, plain_B = (standardised(reward_B, losses_B) for reward_B in both)
            found.append((ours_B, plain_B, draws.op_LB[0]))
        gradients = torch.autograd.grad(losses_B.mean(), list(supernet.network.parameters()))
        supernet.descend(gradients, task.recipe.learning_rate)
    preconditioned, plain, drawn = (torch.cat(parts) for parts in zip(*found, strict=True))
    return preconditioned, plain, drawn


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
    assert isinstance(search, DASSearch)
    parts.append(rewards(search._supernet, seed))
preconditioned_N, plain_N, drawn_N = (torch.cat(each) for each in zip(*parts, strict=True))
noise_N = is_noise_K[drawn_N]
ours, plain = separation(preconditioned_N, noise_N), separation(plain_N, noise_N)
print(f"preconditioned reward: noise ops {ours:.1f} standard errors below the others (bar {BAR})")
print(f"plain reward: {plain:.1f} standard errors below (no bar)")
sys.exit(ours < BAR)
