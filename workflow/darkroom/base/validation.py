"""What pydantic found wrong, as the parts of a coded error: the key, its value, the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class ReportsErrors(Protocol):
    """pydantic's ValidationError and FastAPI's RequestValidationError."""

    def errors(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """`keys` lead to the value, which is None if there is none; an empty path means the data as a whole."""

    keys: tuple[str | int, ...]
    value: Any
    reason: str
    is_unknown_key: bool
    is_missing: bool

    @property
    def name(self) -> str:
        """The keys with full stops between them: `engine.device`."""
        return ".".join(map(str, self.keys))


def first_problem(error: ReportsErrors, *, unknown_keys_first: bool = False) -> Problem:
    """The first thing that is wrong.

    `unknown_keys_first` prefers an unknown key, which may be the misspelt name of one that is reported as missing.
    """
    found = list(error.errors())
    if unknown_keys_first:
        found.sort(key=lambda each: each["type"] != "extra_forbidden")  # stable
    first = found[0]
    return Problem(
        keys=tuple(first["loc"]),
        value=first.get("input"),
        reason=first["msg"].removeprefix("Value error, "),
        is_unknown_key=first["type"] == "extra_forbidden",
        is_missing=first["type"] == "missing",
    )
