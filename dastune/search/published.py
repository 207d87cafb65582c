"""Policies that others have published, by their names in REFERENCES."""

from dastune.config.methods import LARGEST_M
from dastune.exchange.table import import_policy
from dastune.ops.spaces import SPACES
from dastune.policy.policy import Policy
from dastune.policy.references import REFERENCES
from dastune.policy.space import SearchSpace, SpaceOp
from dastune.search.rand_augment import rand_augment_policy


def published_policy(name: str) -> Policy:
    """Return a published policy.

    AutoAugment's are read from torchvision. RandAugment's are (N, M) on the paper's scale over the ranges that the
    paper prints.

    Args:
        name: one of REFERENCES.

    Raises:
        UserError: torchvision, which keeps AutoAugment's, is not installed or keeps them otherwise.
    """
    reference = REFERENCES[name]
    if reference.rand_augment is None:
        return import_policy(reference.auto_augment, "torchvision")
    n, m = reference.rand_augment
    printed = SPACES["ra-paper"]
    ops = tuple(SpaceOp(op.op, op.low, op.high, op.signed) for op in printed.ops)
    return rand_augment_policy(SearchSpace(ops, geometry=printed.geometry), n, m / LARGEST_M["paper"])
