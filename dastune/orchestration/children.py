"""The children of a search on record: what each was charged, and a row for each that has ended."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dastune.folder import ChildEnd, ChildRow
from dastune.orchestration.grid import Assignment
from dastune.policy.policy import policy_from_json, policy_to_json
from dastune.search.search import Child, SearchProgress


class Children:
    """Hears the steps of one search, and gathers rows of its children and notes for people, until they are taken.

    A row is to be taken once it is settled: a checkpoint holds it, or the search has ended. What came after a lost
    attempt's last checkpoint is done again, perhaps to another end, and goes on no record.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._seconds: dict[int, float] = {}
        self._in_training: dict[int, Child] = {}
        self._rows: list[ChildRow] = []
        self._settled = 0  # of the rows, the first ones
        self._notes: list[str] = []

    def hear(self, progress: SearchProgress, seconds: float) -> None:
        """Take in a step that was charged `seconds` device-seconds."""
        for child in progress.children:
            self._seconds[child.index] = self._seconds.get(child.index, 0.0) + seconds / len(progress.children)
            self._in_training[child.index] = child
        for child in progress.ended:
            assert child.status != "training"
            self._end(child, child.status)
            if child.status == "diverged":
                after = f"after {child.epochs:.3g} epochs its loss was not finite, and it scores 0"
                self.note(f"child {child.index} diverged: {after}")

    def note(self, text: str) -> None:
        """Take a line about the search for people."""
        self._notes.append(f"{self._assignment.id}: {text}")

    def settle(self) -> None:
        """Note that a checkpoint holds what `state_dict` returned just now."""
        self._settled = len(self._rows)

    def cut(self) -> None:
        """End the children that are still in training: the search is over, and all is settled."""
        for child in list(self._in_training.values()):
            self._end(child, "cut")
        self.settle()

    def _end(self, child: Child, status: ChildEnd) -> None:
        assignment = self._assignment
        self._in_training.pop(child.index, None)
        self._rows.append(
            ChildRow(
                search_id=assignment.id,
                method=assignment.label,
                noise_level=assignment.noise_level,
                search_seed=assignment.search_seed,
                child=child.index,
                score=child.score,
                seconds=self._seconds.pop(child.index, 0.0),
                epochs=child.epochs,
                status=status,
                policy=policy_to_json(child.policy),
                removed_percent=assignment.removed_percent,
            )
        )

    def take(self) -> tuple[list[ChildRow], list[str]]:
        """Return the settled rows, and the notes, gathered since the last call."""
        rows, notes = self._rows[: self._settled], self._notes
        self._rows, self._settled, self._notes = self._rows[self._settled :], 0, []
        return rows, notes

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of children in training, and the rows that nobody has taken, as plain data."""
        in_training = [
            {**vars(child), "policy": policy_to_json(child.policy), "seconds": self._seconds[child.index]}
            for child in self._in_training.values()
        ]
        return {"in_training": in_training, "rows": [asdict(row) for row in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._rows = [ChildRow(**row) for row in state["rows"]]
        self.settle()
        self._seconds = {saved["index"]: saved["seconds"] for saved in state["in_training"]}
        self._in_training = {
            saved["index"]: Child(
                saved["index"],
                policy_from_json(saved["policy"]),
                saved["epochs"],
                saved["score"],
                saved["status"],
            )
            for saved in state["in_training"]
        }
