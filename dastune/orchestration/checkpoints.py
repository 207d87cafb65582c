"""Checkpoints of one search: two are kept, each with a checksum, so that a damaged one is passed over."""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import torch

from dastune.budget import Origin
from dastune.folder import checkpoint_names, claim_name
from dastune.storage import Storage

_FORMAT = 2


class SupersededError(Exception):
    """A later attempt works on the search: this process was taken for dead, and is to end without a word."""


class Checkpoints:
    """Reads and writes the checkpoints of one search; from the beginning on, none but this process is to write them.

    Args:
        search: its id, a safe name.
        attempt: the number of this process among those that have worked on the search, as far as the driver knows.

    Attributes:
        attempt: the same, or more where the storage knows of more: a driver may have died, or lost its folder, before
            it heard of them.

    Raises OSError if the storage takes nothing.
    """

    def __init__(self, storage: Storage, search: str, attempt: int) -> None:
        self._storage = storage
        self._slots, self._claim = checkpoint_names(search), claim_name(search)
        self._next = 0
        self._number = 0  # of the newest checkpoint; they are counted over all attempts
        claimed = self._claimed()
        self.attempt = attempt if claimed is None else max(attempt, claimed + 1)
        storage.write(self._claim, str(self.attempt).encode())

    def _claimed(self) -> int | None:
        """Return which attempt has written last that the search is its own."""
        claim = self._storage.read(self._claim)
        return int(claim) if claim is not None and claim.isdigit() else None

    def save(self, content: Mapping[str, Any], sequence: int) -> None:
        """Write `content`, tensors and plain data, in place of the older of the two checkpoints.

        Args:
            sequence: of the ledger event that goes with it.

        Raises:
            SupersededError: a later attempt has claimed the search.
            OSError: the storage takes nothing; what is there is as it was.
        """
        claimed = self._claimed()
        if claimed is not None and claimed > self.attempt:
            raise SupersededError(f"attempt {claimed} has begun while attempt {self.attempt} was at work")
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        header = {"format": _FORMAT, "number": self._number + 1, "at": [self.attempt, sequence]}
        checked = json.dumps(header).encode() + b"\n" + buffer.getvalue()
        self._storage.write(self._slots[self._next], _checksum(checked) + b"\n" + checked)
        self._next = 1 - self._next
        self._number += 1

    def load(self) -> tuple[dict[str, Any] | None, Origin | None, list[str]]:
        """Return the newest sound checkpoint, the (attempt, sequence) it was written at, and what is wrong with others.

        Content and place are None where there is no sound one. Raises OSError if the storage does not answer.
        """
        sound: list[tuple[int, int, Origin, bytes]] = []
        faults = []
        for slot, name in enumerate(self._slots):
            blob = self._storage.read(name)
            if blob is None:
                continue
            try:
                number, at, payload = _checked(blob)
            except ValueError as fault:
                faults.append(f"{name} {fault}")
                continue
            sound.append((number, slot, at, payload))
        if not sound:
            return None, None, faults
        self._number, slot, at, payload = max(sound)
        self._next = 1 - slot
        content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return content, at, faults


def _checksum(checked: bytes) -> bytes:
    return hashlib.sha256(checked).hexdigest().encode()


def _checked(blob: bytes) -> tuple[int, Origin, bytes]:
    """Return a checkpoint's number, where it was written, and its payload.

    Raises ValueError if it is not as it was written, or by another version.
    """
    checksum, _, checked = blob.partition(b"\n")
    if _checksum(checked) != checksum:
        raise ValueError(f"is damaged: {len(blob)} bytes whose checksum is another one")
    line, _, payload = checked.partition(b"\n")
    header = json.loads(line)
    if header["format"] != _FORMAT:
        raise ValueError("is of another version of dastune")
    attempt, sequence = header["at"]
    return header["number"], (attempt, sequence), payload
