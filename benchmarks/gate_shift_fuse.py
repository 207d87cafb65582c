"""What Gate-Shift-Fuse adds to a training step: python benchmarks/gate_shift_fuse.py

A step (forward, backward, SGD) of ResNet-18 with modules on a quarter of the channels, over one of the same network on
the same frames without them: 96 clips (the supplement's Table 9) of 8 frames of 32 x 32, ImageNet stem, one thread, in
the layout that trainings choose, in float32 and with bfloat16 autocast where the CPU has it in hardware. Printed is the
median of the ratios of a step to the plain one just before it. Bar: 1.15. Exits 1 where it is missed.
"""

import sys
import time
from statistics import median

import torch
from torch.nn import functional as F  # noqa: N812  the name everyone gives it

from dastune.models.gate_shift_fuse import insert_gate_shift_fuse
from dastune.models.resnet import ResNet
from dastune.orchestration.setting import warm_up
from dastune.training.precision import Precision, fastest_layout, has_bfloat16

CLIPS, FRAMES, SIDE, CLASSES, ROUNDS, BAR = 96, 8, 32, 10, 8, 1.15
CPU = torch.device("cpu")


class Contender:
    """A network and its optimiser on random frames."""

    def __init__(self, precision: Precision, *, fused: bool) -> None:
        torch.manual_seed(0)
        self._precision = precision
        self._network = ResNet(CLASSES)
        if fused:
            insert_gate_shift_fuse(self._network, FRAMES)
        layout = fastest_layout(precision, CPU)
        self._network.to(memory_format=layout)
        self._optimiser = torch.optim.SGD(self._network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self._frames_NCHW = torch.rand(CLIPS * FRAMES, 3, SIDE, SIDE).contiguous(memory_format=layout)
        self._labels_B = torch.arange(CLIPS) % CLASSES

    def seconds(self) -> float:
        """Do a step; return how long it took."""
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._precision == "bfloat16"):
            features_NF = self._network.features(self._frames_NCHW)
        features_BF = features_NF.float().view(CLIPS, FRAMES, -1).mean(1)
        loss = F.cross_entropy(self._network.head(features_BF), self._labels_B)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return time.perf_counter() - start


def main() -> int:
    """Print the figures; return how many bars were missed."""
    warm_up()
    torch.set_num_threads(1)
    missed = 0
    precisions: list[Precision] = ["float32", "bfloat16"] if has_bfloat16(CPU) else ["float32"]
    for precision in precisions:
        plain, fused = Contender(precision, fused=False), Contender(precision, fused=True)
        taken = [(plain.seconds(), fused.seconds()) for _ in range(ROUNDS + 2)][2:]  # the first ones warm up
        ratio = median(with_it / without for without, with_it in taken)
        step = f"plain step {1000 * median(without for without, _ in taken):.0f} ms"
        told = "  MISSED" if ratio > BAR else ""
        print(f"{precision:10}{step:24}with Gate-Shift-Fuse {ratio:6.3f}   bar {BAR}{told}", flush=True)
        missed += ratio > BAR
    return missed


if __name__ == "__main__":
    sys.exit(bool(main()))
