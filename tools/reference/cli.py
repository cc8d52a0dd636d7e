"""The command line: every verb and option, from the argparse parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from darkroom.cli.command import make_parser
from tools.reference.markdown import code, table, value

_KINDS: dict[object, str] = {int: "integer", float: "number", Path: "path"}


def make_parts() -> dict[str, str]:
    """The options before the verb, and a section for each verb."""
    parser = make_parser()
    verbs = "\n\n".join(_verb(name, sub) for name, sub in _verbs(parser).items())
    return {"common": _options(parser), "verbs": verbs}


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: sub
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, sub in action.choices.items()
    }


def _verb(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## darkroom {name}", parser.description or "", _usage(name, parser), _options(parser)]
    return "\n\n".join(parts)


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """The verb's own usage, or its positional arguments: options are in the table."""
    if parser.usage:
        lines = [line.strip() for line in parser.usage.splitlines()]
    else:
        places = [f"[{_called(action)}]" if action.nargs == "?" else _called(action) for action in _positional(parser)]
        lines = [" ".join(["darkroom", name, *places, *_required(parser), "[options]"])]
    return "\n".join(f"    {line}" for line in lines)


def _required(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options that have to be given; of several that exclude each other the first."""
    groups = [group._group_actions[0] for group in parser._mutually_exclusive_groups if group.required]
    for action in [*groups, *(action for action in parser._actions if action.option_strings and action.required)]:
        yield f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"


def _positional(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if not action.option_strings and action.nargs != argparse.PARSER)


def _called(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _options(parser: argparse.ArgumentParser) -> str:
    actions = [
        *_positional(parser),
        *(action for action in parser._actions if action.option_strings and action.dest != "help"),
    ]
    rows = [(_spelt(action), _values(action), _default(action), _help(action)) for action in actions]
    return table(("option", "value", "default", "effect"), rows)


def _spelt(action: argparse.Action) -> str:
    return ", ".join(map(code, action.option_strings)) or code(_called(action))


def _values(action: argparse.Action) -> str:
    if action.choices is not None:
        return " ".join(map(code, action.choices))
    if action.nargs == 0:
        return ""
    kind = _KINDS.get(action.type, "text")
    is_repeated = isinstance(action, argparse._AppendAction) or action.nargs == "+"
    return f"{kind}, one or more" if is_repeated else kind


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    return "" if action.default in (None, False, []) or action.nargs == 0 else value(str(action.default))


def _help(action: argparse.Action) -> str:
    if not action.help:
        raise ValueError(f"{_spelt(action)} has no help")
    return action.help
