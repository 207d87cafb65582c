"""What cannot be expressed, told in one message."""

from dastune.errors import UserError, shortened

_PLACES = 3  # named before "and N more"
_LINES = 10  # of refusals, likewise


class Refusals:
    """What is refused, where and why; the same reason for the same thing is told once.

    Args:
        lead: what cannot be done, such as "the policy cannot be exported to timm".
        remedy: the last line of the message.
    """

    def __init__(self, lead: str, remedy: str) -> None:
        self._lead = lead
        self._remedy = remedy
        self._places: dict[tuple[str, str], list[str]] = {}

    @classmethod
    def of_export(cls, to: str) -> "Refusals":
        """Return the refusals of a policy that is exported to the library or form `to`."""
        return cls(
            f"the policy cannot be exported to {to}",
            "Change that in the policy file, or use dastune.transform, which applies every policy.",
        )

    def add(self, what: str, why: str, where: str = "") -> None:
        """Refuse `what`, which stands at `where`."""
        places = self._places.setdefault((shortened(what), why), [])
        if where and where not in places:
            places.append(where)

    def check(self) -> None:
        """Raise UserError with all refusals, if there are any."""
        if self._places:
            told = list(self._places.items())[:_LINES]
            lines = [f"  {what}{_shown(places)}: {why}" for (what, why), places in told]
            lines += [f"  and {len(self._places) - _LINES:,} more"] if len(self._places) > _LINES else []
            raise UserError("\n".join([f"{self._lead}:", *lines, self._remedy]))


def _shown(places: list[str]) -> str:
    more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
    return f" ({', '.join(places[:_PLACES])}{more})" if places else ""
