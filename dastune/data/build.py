"""Makes pixel files of image files, with as many processes as there are processors."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from dastune.data.listing import Listed, Source, named
from dastune.data.pixel_file import PixelFile
from dastune.errors import UserError, printable

BLOCK = 64  # images that a process decodes at once; its pixels are all that it holds
_TOLD_FROM = 5000  # images; fewer are decoded before anybody wonders


def build(source: Source, found: Listed, folder: Path) -> dict[str, PixelFile]:
    """Decode the files of `source` into pixel files in `folder`, by split.

    Args:
        found: what `listed` says of it.
        folder: is there and empty.

    Raises:
        UserError: files cannot be decoded, or a process dies of one.
        OSError: the files cannot be written.
    """
    image_bytes = 3 * source.side_px**2
    images = {split: sum(counts) for split, counts in found.images.items()}
    for split, count in images.items():
        with pixels_in(folder, split).open("xb") as file:
            os.truncate(file.fileno(), count * image_bytes)
    work = _Work(source, folder, sum(images.values()))
    processes: list[subprocess.Popen[str]] = []
    try:
        while len(processes) < min(len(os.sched_getaffinity(0)), -(-work.images // BLOCK)):
            processes.append(_process(source))
        with ThreadPoolExecutor(len(processes)) as threads:
            try:
                for each in [threads.submit(work.share, process) for process in processes]:
                    each.result()
            finally:  # also of Ctrl-C: threads that wait for an answer get none
                for process in processes:
                    process.kill()
    finally:
        for process in processes:
            with suppress(BrokenPipeError), process:
                process.kill()
    if work.failed:
        some = sorted(work.failed)[:3]
        files = named([f"{path} ({reason})" for path, reason in some], len(work.failed))
        raise UserError(
            f"data.root: {len(work.failed):,} of {work.images:,} files cannot be read as images: {files}; mend them, "
            "or move them away"
        )
    for split in images:
        with pixels_in(folder, split).open("rb") as file:
            os.fsync(file.fileno())
    return {
        split: PixelFile(
            str(pixels_in(folder, split)),
            count,
            source.side_px,
            tuple(map(tuple, work.counts[split].tolist())),
            work.digest(split),
        )
        for split, count in images.items()
    }


def pixels_in(folder: Path, split: str) -> Path:
    """Return the path of the pixels of a split."""
    return folder / f"{split}.pixels"


def _process(source: Source) -> "subprocess.Popen[str]":
    arguments = (str(source.side_px), str(int(source.upright)))
    # In a session of its own: Ctrl-C is for this process, which ends it.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dastune.data.decode", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@dataclass
class _Work:
    """Blocks that are still to be decoded, and what is known of those that are; shared by a thread for each process."""

    source: Source
    folder: Path
    images: int
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    _digests: dict[tuple[str, int], str] = field(default_factory=dict)
    _done: int = 0
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._blocks = self._all_blocks()
        self.counts = {split: np.zeros((3, 256), dtype=np.int64) for split in self.source.splits}
        self._tell(f"decodes {self.images:,} images of {self.source.root}, once, into {self.folder.parent}")

    def _all_blocks(self) -> Iterator[tuple[str, int, list[str]]]:
        """Yield (split, place of the first image, paths)."""
        for split in self.source.splits:
            paths: list[str] = []
            first = 0
            for path in self.source.files(split):
                paths.append(path)
                if len(paths) == BLOCK:
                    yield split, first, paths
                    first, paths = first + BLOCK, []
            if paths:
                yield split, first, paths

    def share(self, process: "subprocess.Popen[str]") -> None:
        """Have a process decode blocks until there are no more."""
        while True:
            with self._lock:
                block = next(self._blocks, None)
            if block is None:
                return
            split, first, paths = block
            target = str(pixels_in(self.folder, split))
            answer = self._asked(process, {"target": target, "first": first, "files": paths})
            with self._lock:
                self.counts[split] += np.asarray(answer["counts"])
                self.failed.extend((path, reason) for path, reason in answer["failed"])
                self._digests[split, first] = answer["digest"]
                before, self._done = self._done, self._done + len(paths)
                if 10 * before // self.images < 10 * self._done // self.images:
                    self._tell(f"{self._done:,} of {self.images:,} images decoded")

    def _asked(self, process: "subprocess.Popen[str]", block: Mapping[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(block) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            with self._lock:
                self._blocks = iter(())  # others need not go on
            raise UserError(
                f"data.root: a process died (exit code {process.wait()}) while it decoded {len(block['files'])} "
                f"images, of which the first is {block['files'][0]}; one is damaged, or the memory was not enough"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def digest(self, split: str) -> str:
        """Return the SHA-256 of the SHA-256 of each block of a split."""
        digest = hashlib.sha256()
        for key in sorted(self._digests):
            if key[0] == split:
                digest.update(bytes.fromhex(self._digests[key]))
        return digest.hexdigest()

    def _tell(self, text: str) -> None:
        if self.images >= _TOLD_FROM:
            print(printable(f"{self.source.name}: {text}"), file=sys.stderr, flush=True)
