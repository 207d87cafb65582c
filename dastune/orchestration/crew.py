"""A crew of several processes: the children of one search, trained at the same time. Does not know Ray."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from dastune.policy.policy import Policy, policy_from_json, policy_to_json
from dastune.search.child import Advance, LocalCrew


class AttemptLostError(Exception):
    """A trial cannot go on, by no fault of the method: it is to start again from its checkpoint."""


class WorkerLostError(AttemptLostError):
    """A process that trained children is gone."""


class ChildServer:
    """What a worker does: a LocalCrew whose arguments and results can go from one process to another.

    States are bytes that hold tensors and plain data only, so that no device of one process is named in another.
    """

    def __init__(self, crew: LocalCrew) -> None:
        self._crew = crew

    def begin(self, child: int, policy: Mapping[str, Any], state: bytes | None) -> None:
        """Take on a child; `policy` as its JSON."""
        self._crew.begin(child, policy_from_json(policy), None if state is None else _loaded(state))

    def advance(self, child: int, until: int) -> Advance:
        """Do one batch of a child."""
        return self._crew.advance([child], until)[0]

    def state(self, child: int) -> bytes:
        """Return the state of a child."""
        buffer = io.BytesIO()
        torch.save(self._crew.state(child), buffer)
        return buffer.getvalue()

    def end(self, child: int) -> None:
        """Forget a child."""
        self._crew.end(child)


def _loaded(state: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return loaded


class Worker(Protocol):
    """A process with a ChildServer."""

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Call a method of the server, after all calls before; return at once what waits for its result.

        Raises:
            WorkerLostError: when waited for, or at once: the process is gone.
        """


class SpreadCrew:
    """Trains children in this process and in workers. A child stays where it is unless its place is taken.

    What comes of a child does not depend on where it is trained: weights, order and draws are functions of its index.
    """

    def __init__(self, here: LocalCrew, workers: Sequence[Worker]) -> None:
        self._here = ChildServer(here)
        self._workers = list(workers)
        self._place: dict[int, int] = {}  # child -> 0 for this process, else 1 + index of the worker
        self._policies: dict[int, Mapping[str, Any]] = {}  # as JSON, to take a child elsewhere

    def _call(self, place: int, method: str, *arguments: Any) -> Callable[[], Any]:
        if place > 0:
            return self._workers[place - 1].call(method, *arguments)
        return lambda: getattr(self._here, method)(*arguments)

    def begin(self, child: int, policy: Policy, state: Mapping[str, Any] | None = None) -> None:
        """Take on a child where the fewest are."""
        taken = list(self._place.values())
        place = min(range(1 + len(self._workers)), key=taken.count)
        buffer = io.BytesIO()
        if state is not None:
            torch.save(dict(state), buffer)
        self._begin(child, place, policy_to_json(policy), buffer.getvalue() or None)

    def _begin(self, child: int, place: int, policy: Mapping[str, Any], state: bytes | None) -> None:
        self._call(place, "begin", child, policy, state)()
        self._place[child] = place
        self._policies[child] = policy

    def advance(self, children: Sequence[int], until: int) -> list[Advance]:
        """Do one batch of each of `children`, each at a place of its own while there are enough."""
        self._spread(children)
        calls = {child: self._call(self._place[child], "advance", child, until) for child in children}
        # The workers are at it already; this process does its own part before it waits for theirs.
        here_first = sorted(children, key=lambda child: self._place[child] > 0)
        results = {child: calls[child]() for child in here_first}
        return [results[child] for child in children]

    def _spread(self, children: Sequence[int]) -> None:
        """Take children that share a place with an earlier one of `children` to places that are free."""
        free = set(range(1 + len(self._workers)))
        crowded = []
        for child in children:
            if self._place[child] in free:
                free.remove(self._place[child])
            else:
                crowded.append(child)
        for child, place in zip(crowded, sorted(free), strict=False):
            state = self._call(self._place[child], "state", child)()
            self._call(self._place[child], "end", child)()
            self._begin(child, place, self._policies[child], state)

    def state(self, child: int) -> dict[str, Any]:
        """Return the state of a child."""
        return _loaded(self._call(self._place[child], "state", child)())

    def end(self, child: int) -> None:
        """Forget a child."""
        self._call(self._place.pop(child), "end", child)()
        del self._policies[child]
