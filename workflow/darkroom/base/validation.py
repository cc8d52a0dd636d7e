"""Mistakes in what users write: pydantic's errors as the parts of a coded one, and all mistakes told at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationInfo, field_validator

from darkroom.errors import DarkroomError, InputError

_NUMBERS = (int, float, int | None, float | None)

_REASONS = {
    "int_type": "is no whole number",
    "int_parsing": "is no whole number",
    "int_from_float": "is no whole number",
    "float_type": "is no number",
    "float_parsing": "is no number",
    "string_type": "is no text",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "list_type": "is no list",
    "tuple_type": "is no list",
    "dict_type": "is no mapping of keys to values",
    "model_type": "is no mapping of keys to values",
}
"""Plain words for pydantic's reasons that name Python's types."""


@dataclass(slots=True)
class Mistakes:
    """Errors of the user's input, collected so that all are told at once."""

    errors: list[DarkroomError] = field(default_factory=list)

    def add(self, *errors: DarkroomError) -> None:
        """Add errors, with the notes that they may carry."""
        self.errors += errors

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Add the InputError that ends the block, if any."""
        try:
            yield
        except InputError as error:
            self.add(error)

    def raise_all(self) -> None:
        """Raise the first, with the others as its notes; do nothing if there are none."""
        if self.errors:
            first, *others = self.errors
            for line in lines_of(others):
                first.add_note(line)
            raise first from None


def lines_of(errors: Iterable[DarkroomError]) -> list[str]:
    """The errors' texts with their notes: one line each."""
    return [line for error in errors for line in (str(error), *getattr(error, "__notes__", []))]


class StrictModel(BaseModel):
    """A model whose numbers can't be given as booleans, which pydantic would take for 0 and 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in _NUMBERS:
            raise ValueError("is a boolean, not a number")
        return value


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
    """The first thing that is wrong; `unknown_keys_first` as in `all_problems`."""
    return all_problems(error, unknown_keys_first=unknown_keys_first)[0]


def all_problems(error: ReportsErrors, *, unknown_keys_first: bool = False) -> list[Problem]:
    """Everything that is wrong.

    `unknown_keys_first` prefers unknown keys, which may be the misspelt names of those that are reported as missing.
    """
    found = list(error.errors())
    if unknown_keys_first:
        found.sort(key=lambda each: each["type"] != "extra_forbidden")  # stable
    return [
        Problem(
            keys=tuple(each["loc"]),
            value=each.get("input"),
            reason=_REASONS.get(each["type"], each["msg"].removeprefix("Value error, ")),
            is_unknown_key=each["type"] == "extra_forbidden",
            is_missing=each["type"] == "missing",
        )
        for each in found
    ]
