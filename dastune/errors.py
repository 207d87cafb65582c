"""What a user is told when the input is at fault."""

import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

MOST_SHOWN = 60  # characters of a name or a value in a message

# In a URI: user and password, which may hold a slash but is no port; a user alone where a server is, for it may be a
# token; a password among the options of a database.
_SECRETS = re.compile(
    r"(?<=://)[^\s:/@]*:(?!\d+(?:[/?#\s]|$))[^\s@]*(?=@)"
    r"|(?<=\bhttp://)[^\s/?#@]+(?=@)|(?<=\bhttps://)[^\s/?#@]+(?=@)"
    r"|(?<=[?&;])[^\s=&]*(?:password|passwd|pwd|secret|token|odbc_connect)[^\s=&]*=[^\s&]*",
    re.IGNORECASE,
)


class UserError(Exception):
    """The input is at fault, not the program.

    The message stands alone: where, what came, what is legal, what to do. The command line prints it without a
    traceback and exits with 2. What it quotes may come from anybody's file: control characters are written as Python
    writes them, and passwords in URIs are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, without_secrets(message).split("\n"))))


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return what to say of an unknown name: the nearest legal one, or all of them.

    >>> nearest("randaug", ["rand_augment", "none"])
    "did you mean 'rand_augment'?"
    """
    names = {name.lower(): name for name in sorted(legal)}
    close = get_close_matches(word[: 10 * MOST_SHOWN].lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "legal: " + ", ".join(names.values())


def printable(text: str) -> str:
    r"""Return a text for the terminal: control characters as Python writes them.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def without_secrets(text: str) -> str:
    """Return a text with *** for passwords, and whoever they belong to, in its URIs.

    >>> without_secrets("uri: postgresql://anna:pass@db/mlflow")
    'uri: postgresql://***@db/mlflow'
    """
    return _SECRETS.sub("***", text)


def shortened(value: object, most: int = MOST_SHOWN) -> str:
    """Return a name, or a value as Python writes it, for a message: at most `most` characters, all printable.

    >>> shortened("x" * 9, most=6)
    'xxx...'
    """
    text = value[: most + 1] if isinstance(value, str) else _written(value)
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _written(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no whole number of more than 4300 digits
        return "a number of thousands of digits"
