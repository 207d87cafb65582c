"""What searches found: their policies as distributions over ops, against uniform ones and against each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum, log

import numpy as np
from numpy.typing import NDArray

from dastune.errors import UserError
from dastune.folder import SearchRow, StudyFolder
from dastune.ops.table import OPS
from dastune.policy.policy import Policy, applied_shares, load_policy
from dastune.report.axis import NOISE, Axis
from dastune.report.plan import Plan
from dastune.report.stats import mean, sd

Shares = Mapping[str, float]
"""Op -> its expected share of what a policy applies; the shares sum to 1, or there are none."""

RELABELLINGS = 199
RELABELLING_SEED = 0
_MOST_VALUES = 2_000_000  # held at once


@dataclass(frozen=True)
class Applied:
    """What a policy applies.

    Attributes:
        rate: expected share of its steps that are applied and not skipped, in [0, 1]; 0 for a policy without steps.
        shares: of those that are applied; empty where the rate is 0.
        error: why the policy could not be read, in words that follow a colon; "" if it was.
    """

    rate: float = 0.0
    shares: Shares = field(default_factory=dict)
    error: str = ""

    @property
    def noise_share(self) -> float | None:
        """The share of noise ops among those that are applied; None where none is."""
        return sum(share for op, share in self.shares.items() if OPS[op].noise) if self.shares else None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof = 1) over search seeds; None of no seed, and of one."""

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Agreement:
    """How alike the policies of several seeds are; see `agreement` and `chance_agreement`, in [0, 1].

    Attributes:
        observed: as found.
        chance: if it were chance which ops a policy prefers, by how much it does.
        p_value: of `observed` under that chance.
    """

    observed: float
    chance: float | None
    p_value: float | None


@dataclass(frozen=True)
class Found:
    """What the searches of one method at one level found. Failed searches are left out.

    Attributes:
        noise_mass: as the rows say it; 0 for a policy that applies nothing.
        rate: of the steps that are applied; the fields below are of these alone.
        noise_shares: search seed -> share of noise ops; `uniform_noise_share` if all ops were equally likely.
        by_seed: search seed -> the shares of all ops.
        entropy: of the op distribution, in nats; `uniform_entropy` if all ops were equally likely.
        distance: total variation distance of the op distribution from the uniform one over the space's ops, in [0, 1].
        agreement: None for fewer than two policies that apply anything.
        tau_entropy, tau_from_start: entropy of softmax(tau) in nats, and its total variation distance from its start,
            as searches that have a tau say.
        children: mean number of finished children per search; None for searches without such.
        exhausted: whether no search had anything left to try, so that a longer one would have found the same.
        unread: policies that are missing or damaged.

    What needs the list of the space's ops is None where the study does not say it.
    """

    method: str
    level: int
    noise_mass: Spread
    uniform_noise_share: float | None
    rate: Spread
    noise_shares: Mapping[int, float]
    by_seed: Mapping[int, Shares]
    entropy: Spread
    uniform_entropy: float | None
    distance: Spread
    agreement: Agreement | None
    tau_entropy: Spread
    tau_from_start: Spread
    children: float | None
    exhausted: bool
    unread: int

    @cached_property
    def mean_shares(self) -> dict[str, float]:
        """Op -> its mean share over seeds, the largest first."""
        ops = sorted({op for shares in self.by_seed.values() for op in shares})
        means = {op: sum(of.get(op, 0.0) for of in self.by_seed.values()) / len(self.by_seed) for op in ops}
        return dict(sorted(means.items(), key=lambda item: -item[1]))


def findings(
    searches: Iterable[SearchRow], applied: Mapping[str, Applied], plan: Plan | None, axis: Axis = NOISE
) -> list[Found]:
    """Return what each method found at each level of `axis`: methods as they first appear, levels ascending.

    Args:
        searches: rows; failed ones are left out.
        applied: search id -> what its policy applies.
        plan: None where it is not known.
    """
    groups: dict[tuple[str, int], list[SearchRow]] = {}
    methods: dict[str, int] = {}
    for row in searches:
        groups.setdefault((row.method, axis.level(row)), []).append(row)
        methods.setdefault(row.method, len(methods))
    ops = plan.ops if plan else {}
    keys = sorted(groups, key=lambda key: (methods[key[0]], key[1]))
    return [_found(*key, groups[key], applied, ops.get(key[1], ())) for key in keys]


def _found(
    method: str, level: int, rows: Sequence[SearchRow], applied: Mapping[str, Applied], ops: Sequence[str]
) -> Found:
    rows = sorted((row for row in rows if row.status != "failed"), key=lambda row: row.search_seed)
    read = {row.search_seed: applied[row.id] for row in rows if not applied[row.id].error}
    by_seed = {seed: each.shares for seed, each in read.items() if each.shares}
    uniform = dict.fromkeys(ops, 1 / len(ops)) if ops else None
    return Found(
        method=method,
        level=level,
        noise_mass=_spread(row.noise_mass for row in rows),
        uniform_noise_share=mean(row.uniform_noise_share for row in rows),
        rate=_spread(each.rate for each in read.values()),
        noise_shares={seed: each.noise_share for seed, each in read.items() if each.noise_share is not None},
        by_seed=by_seed,
        entropy=_spread(entropy(shares) for shares in by_seed.values()),
        uniform_entropy=entropy(uniform) if uniform else None,
        distance=_spread(total_variation(shares, uniform) for shares in by_seed.values() if uniform),
        agreement=_agreement([*by_seed.values()], ops),
        tau_entropy=_spread(row.summary["tau_entropy"] for row in rows if "tau_entropy" in row.summary),
        tau_from_start=_spread(row.summary["tau_from_start"] for row in rows if "tau_from_start" in row.summary),
        # A search that had no time for its first child says so itself; others have no such key.
        children=mean(row.children for row in rows if row.children or "children" in row.summary),
        exhausted=all(row.status == "done" for row in rows),
        unread=sum(bool(applied[row.id].error) for row in rows),
    )


def _spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(mean(values), sd(values))


def read_applied(folder: StudyFolder, rows: Iterable[SearchRow]) -> dict[str, Applied]:
    """Return search id -> what its policy applies, of all rows that did not fail. Reads each policy once."""
    return {row.id: _applied(folder, row) for row in rows if row.status != "failed"}


def _applied(folder: StudyFolder, row: SearchRow) -> Applied:
    try:
        shares = applied_shares(read_policy(folder, row))
    except UserError as error:
        return Applied(error=str(error))
    rate = sum(shares.values())
    return Applied(rate, {op: share / rate for op, share in shares.items()})


def read_policy(folder: StudyFolder, row: SearchRow) -> Policy:
    """Return a search's policy.

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
        return load_policy(path)
    except UserError as error:
        raise UserError(missing) from error


def entropy(shares: Shares) -> float:
    """Return the entropy in nats: 0 for a single op, the logarithm of their number where all are equally likely."""
    return sum(-share * log(share) for share in shares.values() if share > 0) + 0.0


def total_variation(one: Shares, other: Shares) -> float:
    """Return the total variation distance: the share that would have to move to turn one into the other, in [0, 1]."""
    # fsum: a set has another order in each process, and a sum would have another last digit
    return fsum(abs(one.get(op, 0.0) - other.get(op, 0.0)) for op in one.keys() | other.keys()) / 2


def _agreement(many: Sequence[Shares], ops: Sequence[str]) -> Agreement | None:
    if len(many) < 2:
        return None
    seen = sorted({op for shares in many for op in shares} | {*ops})
    shares_SK = np.array([[shares.get(op, 0.0) for op in seen] for shares in many])
    observed = float(agreement(shares_SK))
    if not ops:
        return Agreement(observed, None, None)
    return Agreement(observed, chance_agreement(shares_SK), _p_value(shares_SK, observed))


def agreement(shares_SK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over all pairs of 1 - total variation distance: 1 if all are the same.

    Args:
        shares_SK: (..., S, K), the shares of K ops in each of S policies, 2 or more; leading dimensions are kept.
    """
    seeds = shares_SK.shape[-2]
    below = np.arange(1, seeds)
    splits = below * below[::-1]  # the gap above the k lowest of n values lies between k (n - k) pairs of them
    gaps = np.diff(np.sort(shares_SK, axis=-2), axis=-2).sum(-1)
    alike: NDArray[np.float64] = 1 - gaps @ splits / (seeds * (seeds - 1))
    return alike


def chance_agreement(shares_SK: NDArray[np.float64]) -> float:
    """Return the expected agreement if the ops' shares were dealt out to the ops anew for each policy.

    Two policies share min(p, q) of an op; dealt out anew, every p meets every q with probability 1 / K.
    """
    seeds, ops = shares_SK.shape
    pairs = seeds * (seeds - 1) / 2
    within = sum(_sum_of_minima(row) for row in shares_SK)
    return float((_sum_of_minima(shares_SK.ravel()) - within) / ops / pairs)


def _sum_of_minima(values: NDArray[np.float64]) -> float:
    """Return the sum of the smaller one over all pairs."""
    return float(np.sort(values) @ np.arange(len(values) - 1, -1, -1))


def _p_value(shares_SK: NDArray[np.float64], observed: float) -> float:
    """Return how often shares dealt out anew agree as well, by RELABELLINGS of them; the found ones count as one."""
    random = np.random.default_rng(RELABELLING_SEED)
    at_once = max(1, _MOST_VALUES // shares_SK.size)
    as_well = 0
    for start in range(0, RELABELLINGS, at_once):
        count = min(at_once, RELABELLINGS - start)
        dealt = random.permuted(np.broadcast_to(shares_SK, (count, *shares_SK.shape)), axis=-1)
        as_well += int((agreement(dealt) >= observed - 1e-9).sum())
    return (1 + as_well) / (1 + RELABELLINGS)
