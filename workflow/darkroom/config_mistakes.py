"""Mistakes in the configuration: what is told about each, and the configuration without them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import PUT_IN_QUOTES, locate, quote
from darkroom.base.text import did_you_mean, shorten
from darkroom.base.validation import Problem
from darkroom.errors import ConfigError
from darkroom.request.assets import ASSETS

_SOURCES = ("checkpoints", *ASSETS, "scores")
"""The sections that name sources."""
_STAND_IN = "hf:owner/name"
"""A source in place of one that is wrong, so that the sheets can be read."""


def no_mapping(data: Any, path: Path | str) -> ConfigError:
    """The error for a configuration that is empty or something else than a mapping."""
    why = "is empty" if data is None else "is not a mapping of keys to values"
    return ConfigError("configuration", path, why, "write checkpoints: and sheets:, as in config/README.md")


def unknown_reference(keys: Sequence[str], value: str, section: str, known: Sequence[str], place: str) -> ConfigError:
    """The error for a key whose value is the name of nothing that may stand there; `known` are those of its section."""
    otherwise = f"known are {', '.join(known)}" if known else f"list it under {section}"
    what = "no CLIP" if section == "scores" else "not"
    why = f"is {what} among {section} ({place})"
    return ConfigError(f"{'.'.join(keys)} =", value, why, did_you_mean(value, known, otherwise, most=1))


def without_wrong_values(data: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The configuration without the values that are wrong; a source that is wrong keeps its name."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for keys in (problem.keys for problem in problems):
        section = kept.get(str(keys[0])) if keys else None
        if len(keys) > 1 and isinstance(section, dict):
            if keys[0] in _SOURCES:
                section[keys[1]] = {"source": _STAND_IN}
            else:
                section.pop(keys[1], None)
        elif keys:
            kept.pop(str(keys[0]), None)
    return kept


def describe_problems(
    problems: list[Problem], path: Path | str, known_keys: Callable[[list[str]], list[str]]
) -> list[ConfigError]:
    """An error for each problem; a key that is missing may be meant by an unknown one beside it.

    `path` is the configuration's file, `known_keys` gives the keys of the section that some keys lead to.
    """
    misspelt = {problem.keys[:-1] for problem in problems if problem.is_unknown_key}
    return [
        _describe(each, path, known_keys) for each in problems if not (each.is_missing and each.keys[:-1] in misspelt)
    ]


def _describe(problem: Problem, path: Path | str, known_keys: Callable[[list[str]], list[str]]) -> ConfigError:
    keys = [str(key) for key in problem.keys]
    place = locate(path, keys)
    if problem.is_unknown_key:
        return unknown_key(problem.name, known_keys(keys[:-1]), place)
    hint = _example(keys, problem.value) or "see docs/reference/config.md"
    if problem.is_missing:
        return ConfigError("key", problem.name, f"is missing ({place})", hint)
    if named := re.match(r"'([^']*)'", problem.reason):  # one of a section's names
        reason, _, hint = problem.reason.partition("; ")
        return ConfigError(
            f"{problem.name} name",
            named[1],
            f"{reason} ({locate(path, [*keys, named[1]])})",
            hint or "use another name",
        )
    reason = "is empty" if problem.value in ({}, [], None) else problem.reason
    if problem.reason == "is no text" and not isinstance(problem.value, dict | list):
        hint = f"{PUT_IN_QUOTES}: {keys[-1]}: {quote(str(problem.value))}"
    return ConfigError(f"{problem.name} =", problem.value and shorten(problem.value), f"{reason} ({place})", hint)


def _example(keys: list[str], value: Any) -> str | None:
    """What to write for a key of the configuration that is missing or of another kind."""
    if not keys:
        return None
    if keys == ["sheets"]:
        return f"write sheets: [{value if isinstance(value, str) else 'prompts/demo.yaml'}]"
    if keys[0] in _SOURCES and len(keys) == 1:
        return f"write {keys[0]}: and below it NAME: {{source: PATH}}"
    if keys[0] in _SOURCES and len(keys) == 2:
        return f"write {keys[1]}: {{source: {value if isinstance(value, str) else 'PATH'}}}"
    if keys[0] in _SOURCES and keys[2:] == ["source"]:
        return f"write {keys[1]}: {{source: PATH}}"
    return None


def unknown_key(name: str, known: list[str], place: str) -> ConfigError:
    """The error for a key nobody knows, with the nearest known one as its hint."""
    otherwise = f"known keys are {', '.join(known)}"
    hint = did_you_mean(name.rpartition(".")[2], known, otherwise, most=1, cutoff=0.5)
    return ConfigError("key", name, f"unknown ({place})", hint)
