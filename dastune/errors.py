"""What a user is told when the input is at fault."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The input is at fault, not the program.

    The message stands alone: where, what came, what is legal, what to do. The command line prints it without a
    traceback and exits with 2.
    """


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return what to say of an unknown name: the nearest legal one, or all of them.

    >>> nearest("randaug", ["rand_augment", "none"])
    "did you mean 'rand_augment'?"
    """
    names = {name.lower(): name for name in sorted(legal)}
    close = get_close_matches(word.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "legal: " + ", ".join(names.values())
