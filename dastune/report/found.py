"""What searches found: their policies as distributions over ops, against uniform ones and against each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from dastune.errors import UserError
from dastune.folder import SearchRow, StudyFolder
from dastune.policy.policy import load_policy, op_shares
from dastune.report.plan import Plan
from dastune.report.stats import mean, sd

Shares = Mapping[str, float]
"""Op -> its expected share of what a policy applies; the shares sum to 1 (`op_shares`)."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof = 1) over search seeds; None of no seed, and of one."""

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Found:
    """What the searches of one method at one noise level found. Failed searches are left out.

    Attributes:
        noise_mass: expected share of noise ops in the policy; `uniform_noise_share` if all ops were equally likely.
        entropy: of the policy's op distribution, in nats; `uniform_entropy` if all ops were equally likely.
        distance: total variation distance of the op distribution from the uniform one over the space's ops, in [0, 1].
        agreement: see `agreement`; None for fewer than two policies.
        tau_entropy, tau_from_start: entropy of softmax(tau) in nats, and its total variation distance from its start,
            as searches that have a tau say.
        children: mean number of finished children per search; None for searches without such.
        exhausted: whether no search had anything left to try, so that a longer one would have found the same.

    What needs the list of the space's ops is None where the study does not say it.
    """

    method: str
    noise_level: int
    noise_mass: Spread
    uniform_noise_share: float | None
    entropy: Spread
    uniform_entropy: float | None
    distance: Spread
    agreement: float | None
    tau_entropy: Spread
    tau_from_start: Spread
    children: float | None
    exhausted: bool


def findings(folder: StudyFolder, searches: Iterable[SearchRow], plan: Plan | None) -> list[Found]:
    """Return what each method found at each noise level: methods as they first appear, levels ascending.

    Policies that cannot be read are left out.
    """
    groups: dict[tuple[str, int], list[SearchRow]] = {}
    methods: dict[str, int] = {}
    for row in searches:
        groups.setdefault((row.method, row.noise_level), []).append(row)
        methods.setdefault(row.method, len(methods))
    ops = plan.ops if plan else {}
    keys = sorted(groups, key=lambda key: (methods[key[0]], key[1]))
    return [_found(folder, *key, groups[key], ops.get(key[1], ())) for key in keys]


def _found(folder: StudyFolder, method: str, level: int, rows: list[SearchRow], ops: Sequence[str]) -> Found:
    rows = [row for row in rows if row.status != "failed"]
    many = []
    for row in rows:
        try:
            many.append(policy_shares(folder, row))
        except UserError:
            continue
    uniform = dict.fromkeys(ops, 1 / len(ops)) if ops else None
    return Found(
        method=method,
        noise_level=level,
        noise_mass=_spread(row.noise_mass for row in rows),
        uniform_noise_share=mean(row.uniform_noise_share for row in rows),
        entropy=_spread(entropy(shares) for shares in many),
        uniform_entropy=entropy(uniform) if uniform else None,
        distance=_spread(total_variation(shares, uniform) for shares in many if uniform),
        agreement=agreement(many),
        tau_entropy=_spread(row.summary["tau_entropy"] for row in rows if "tau_entropy" in row.summary),
        tau_from_start=_spread(row.summary["tau_from_start"] for row in rows if "tau_from_start" in row.summary),
        # A search that had no time for its first child says so itself; others have no such key.
        children=mean(row.children for row in rows if row.children or "children" in row.summary),
        exhausted=all(row.status == "done" for row in rows),
    )


def _spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(mean(values), sd(values))


def policy_shares(folder: StudyFolder, row: SearchRow) -> Shares:
    """Return the op distribution of a search's policy.

    Raises:
        UserError: its policy is outside the folder, missing or damaged; says which, in words that follow a colon.
    """
    missing = "its policy file is missing or cannot be read"
    try:
        path = (folder.root / row.policy).resolve()
        is_file = path.is_file()  # and not what has no end, such as a pipe
    except (OSError, RuntimeError, ValueError) as error:  # no name for a file, or a link to itself
        raise UserError(missing) from error
    if not path.is_relative_to(folder.root.resolve()):
        raise UserError("its policy is outside this folder and was not read")
    if not is_file:
        raise UserError(missing)
    try:
        return op_shares(load_policy(path))
    except UserError as error:
        raise UserError(missing) from error


def entropy(shares: Shares) -> float:
    """Return the entropy in nats: 0 for a single op, the logarithm of their number where all are equally likely."""
    return sum(-share * log(share) for share in shares.values() if share > 0) + 0.0


def total_variation(one: Shares, other: Shares) -> float:
    """Return the total variation distance: the share that would have to move to turn one into the other, in [0, 1]."""
    return sum(abs(one.get(op, 0.0) - other.get(op, 0.0)) for op in one.keys() | other.keys()) / 2


def agreement(many: Sequence[Shares]) -> float | None:
    """Return the mean over all pairs of 1 - total variation distance: 1 if all are the same; None without a pair."""
    pairs = len(many) * (len(many) - 1) / 2
    if not pairs:
        return None
    below = np.arange(1, len(many))
    splits = below * below[::-1]  # the gap above the k lowest of n values lies between k (n - k) pairs of them
    ops = sorted({op for shares in many for op in shares})
    gaps = (np.diff(np.sort([shares.get(op, 0.0) for shares in many])) for op in ops)
    return float(1 - sum(float(splits @ gap) for gap in gaps) / 2 / pairs)
