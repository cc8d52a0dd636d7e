"""pydantic's errors as parts of ours."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from darkroom.base.validation import Problem, first_problem


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = 1
    sizes: list[int] = []

    @field_validator("steps")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be positive")
        return value


class Outer(BaseModel):
    inner: Inner
    needed: int = 0

    @model_validator(mode="after")
    def _agree(self) -> Outer:
        if self.needed > 9:
            raise ValueError("too many")
        return self


def problem(data: Any, model: type[BaseModel] = Outer, **options: bool) -> Problem:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return first_problem(caught.value, **options)


def test_the_key_the_value_and_the_reason() -> None:
    found = problem({"inner": {"steps": 0}})
    assert (found.name, found.value, found.reason) == ("inner.steps", 0, "must be positive")
    assert problem({"inner": {"sizes": [1, "x"]}}).keys == ("inner", "sizes", 1)


def test_what_is_wrong_with_the_whole_has_no_key() -> None:
    assert (problem({"inner": {}, "needed": 10}).name, problem({"inner": {}, "needed": 10}).reason) == ("", "too many")


def test_a_misspelt_key_comes_before_the_missing_one_that_it_was_meant_to_be() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")

        source: str

    assert problem({"sorce": "a"}, Strict).is_missing
    found = problem({"sorce": "a"}, Strict, unknown_keys_first=True)
    assert (found.name, found.is_unknown_key, found.is_missing) == ("sorce", True, False)
