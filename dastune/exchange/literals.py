"""Lists of sub-policies, [[[name, ...], ...], ...], as texts: JSON, or as Python writes them. Nothing is executed."""

import ast
import json
from itertools import accumulate
from typing import Any

from dastune.errors import UserError, shortened

MOST_SUB_POLICIES = 10_000  # that are written out, whichever way
MOST_TEXT = 1_000_000  # characters
DEPTH = 3  # of lists: sub-policies, their ops, what an op is made of


def literal(text: str, form: str) -> Any:
    """Return the data of a JSON or Python literal.

    Args:
        form: what it should be, such as "a published policy is [[[name, probability, level], ...], ...]".

    Raises:
        UserError: it is neither, too long, or too deep.
    """
    if len(text) > MOST_TEXT:
        raise UserError(f"the text has {len(text):,} characters, and may have {MOST_TEXT:,}; {form}")
    depth = max(accumulate((character in "[({") - (character in "])}") for character in text), default=0)
    if depth > DEPTH:
        raise UserError(f"the text has lists {depth:,} deep, and may have {DEPTH}; {form}")
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    raise UserError(f"'{shortened(text.strip())}' is no list, neither in JSON nor as Python writes it; {form}")
