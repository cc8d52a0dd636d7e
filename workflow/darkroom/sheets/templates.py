"""Prompts with places to fill: `${name}`, and in sheets that say so the most used notation of dynamic prompts.

A template is parsed once and filled for each cell. `${name}` is a variable: an axis' value, a prompt's own, or a wildcard's
draw; `$${` is a plain `${`, and nothing else is special. With `template: dynamic-prompts` there are further `{a|b}`,
`{2$$a|b|c}`, `{1-2$$ and $$a|b|c}`, `{0.5::a|b}` and `__name__`, where `\\` before one of `{ } | _ \\ $` makes it text
(github.com/adieyal/dynamicprompts, SYNTAX.md); whatever else that notation has is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from darkroom.errors import SheetError
from darkroom.sheets.wildcards import Draw, Entry, read_entry

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""The name of a variable."""
MAX_DEPTH = 20
_VARIABLE = re.compile(r"\$(\$?)\{([^{}]*)\}?")
_TOKENS = re.compile(r"\\[{}|_\\$]|\$\$|\$\{|__[^\s{}|]*?__|[{}|]")
_NUMBER_OF = re.compile(r"\s*(\d*)(-?)(\d*)\s*")
_WILDCARD = re.compile(r"__([A-Za-z0-9][A-Za-z0-9_/.-]*?)__")


@dataclass(frozen=True, slots=True)
class Variable:
    """A place for the value of a variable."""

    name: str


@dataclass(frozen=True, slots=True)
class WildcardUse:
    """`__name__`; a second one of the same name in a prompt draws again."""

    name: str
    occurrence: int


@dataclass(frozen=True, slots=True)
class Variant:
    """`{…}`: between `least` and `most` of the options, joined by `separator`; `key` is its place in the template."""

    key: str
    options: tuple[tuple[Entry, tuple[Part, ...]], ...]
    least: int
    most: int
    separator: tuple[Part, ...]


Part = str | Variable | WildcardUse | Variant


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt's text as fixed texts and places to fill."""

    text: str
    parts: tuple[Part, ...]

    def variables(self) -> set[str]:
        """The names of the variables in it."""
        return {part.name for part in walk(self.parts) if isinstance(part, Variable)}

    def wildcards(self) -> set[str]:
        """The names in `__name__`."""
        return {part.name for part in walk(self.parts) if isinstance(part, WildcardUse)}

    @property
    def is_drawn(self) -> bool:
        """True if draws differ though no variable does."""
        return any(isinstance(part, WildcardUse | Variant) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Filling:
    """What a template is filled with: the variables' texts, the wildcards' entries, and the draw.

    `parse` makes a template of a wildcard's entry, so that entries may have places to fill too.
    """

    variables: Mapping[str, str]
    wildcards: Mapping[str, Sequence[Entry]]
    draw: Draw
    parse: Callable[[str, str], Template]
    open: tuple[str, ...] = field(default=())

    def fill(self, template: Template) -> str:
        """The text. Raises SheetError (E-SHEET) for a name that nothing defines, and for entries that name each other."""
        return self._join(template.parts)

    def _join(self, parts: Sequence[Part]) -> str:
        return "".join(part if isinstance(part, str) else self._text_of(part) for part in parts)

    def _text_of(self, part: Variable | WildcardUse | Variant) -> str:
        if isinstance(part, Variable):
            if part.name in self.variables:
                return self.variables[part.name]
            return self._drawn(part.name, part.name)
        if isinstance(part, WildcardUse):
            return self._drawn(part.name, f"{part.name}#{part.occurrence}" if part.occurrence else part.name)
        return self._choose(part)

    def _drawn(self, name: str, key: str) -> str:
        if name in self.open:
            cycle = " → ".join([*self.open, name])
            raise SheetError(
                "wildcard", name, f"its entries lead back to it ({cycle})", "take the name out of one entry"
            )
        (entry,) = self.draw.choose(key, self.wildcards[name])
        inner = Filling(self.variables, self.wildcards, self.draw, self.parse, (*self.open, name))
        return inner.fill(self.parse(entry.text, f"wildcard {name}"))

    def _choose(self, variant: Variant) -> str:
        count = variant.least
        if variant.most > variant.least:
            counts = [Entry(str(number)) for number in range(variant.least, variant.most + 1)]
            count = int(self.draw.choose(f"{variant.key}$$", counts)[0].text)
        parts = dict(variant.options)
        chosen = self.draw.choose(variant.key, list(parts), count)
        return self._join(variant.separator).join(self._join(parts[entry]) for entry in chosen)


def walk(parts: Sequence[Part]) -> Iterator[Part]:
    """All parts, those inside of variants too."""
    for part in parts:
        yield part
        if isinstance(part, Variant):
            yield from walk(part.separator)
            for _, inner in part.options:
                yield from walk(inner)


def escape_template(text: str) -> str:
    """The text as a template that is filled with just this text."""
    return text.replace("${", "$${")


def escape_dynamic_prompt(text: str) -> str:
    """As `escape_template`, in the notation of dynamic prompts."""
    return re.sub(r"([{}|_\\$])", r"\\\1", text)


@lru_cache(maxsize=4096)
def parse_template(text: str, where: str) -> Template:
    """A prompt with `${name}`. Raises SheetError (E-SHEET) for what begins like one and isn't."""
    parts: list[Part] = []
    place = 0
    for match in _VARIABLE.finditer(text):
        parts.append(text[place : match.start()])
        parts.append(match[0][1:] if match[1] else _variable(match[2], match[0], where))
        place = match.end()
    parts.append(text[place:])
    return Template(text, _joined(parts))


@lru_cache(maxsize=4096)
def parse_dynamic_prompt(text: str, where: str) -> Template:
    """A prompt in the notation of dynamic prompts. Raises SheetError (E-SHEET) for what isn't read."""
    return Template(text, _DynamicPrompt(text, where).parse())


def _variable(name: str, shown: str, where: str) -> Variable:
    if not shown.endswith("}") or not NAME.fullmatch(name):
        raise SheetError(f"{where}: variable", shown, "is none", "write ${name}, or $${ for a plain ${")
    return Variable(name)


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with texts that follow one another as one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


class _DynamicPrompt:
    """A parser of one prompt; `_place` is where it stands in the tokens."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._tokens = list(_split(text))
        self._place = 0
        self._seen: dict[str, int] = {}

    def parse(self) -> tuple[Part, ...]:
        parts = self._sequence("", depth=0)
        if self._place < len(self._tokens):
            raise self._refuse(
                self._tokens[self._place], "opens nowhere" if self._next() == "}" else "is outside of { }"
            )
        return parts

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._place += 1
        return token

    def _refuse(self, value: str, why: str) -> SheetError:
        return SheetError(f"{self._where}: dynamic prompt", value, why, "put a backslash before it if it is text")

    def _sequence(self, key: str, *, depth: int) -> tuple[Part, ...]:
        """Everything up to a `|` or `}` of the level above, or the end."""
        if depth > MAX_DEPTH:
            raise self._refuse("{", f"is nested more than {MAX_DEPTH} deep")
        parts: list[Part] = []
        variants = 0
        while (token := self._next()) and token not in ("|", "}"):
            self._take()
            if token == "{":
                parts.append(self._variant(f"{key}{{{variants}", depth))
                variants += 1
            elif token == "${":
                parts.append(self._variable())
            elif token.startswith("__"):
                parts.append(self._wildcard(token))
            else:
                parts.append(token[1:] if token[0] == "\\" and len(token) == 2 else token)
        return _joined(parts)

    def _variable(self) -> Variable:
        inside = self._take()
        shown = f"${{{inside}{self._take()}"
        if not shown.endswith("}") or not NAME.fullmatch(inside):
            raise self._refuse(shown, "is no variable; a value can't be set in a prompt")
        return Variable(inside)

    def _wildcard(self, token: str) -> WildcardUse:
        found = _WILDCARD.fullmatch(token)
        if found is None:
            raise self._refuse(token, "is no wildcard's name: globs, parameters and samplers aren't read")
        name = found[1]
        self._seen[name] = self._seen.get(name, -1) + 1
        return WildcardUse(name, self._seen[name])

    def _variant(self, key: str, depth: int) -> Variant:
        start = self._place
        least, most, separator = self._head(key, depth)
        options: list[tuple[Entry, tuple[Part, ...]]] = []
        while True:
            begin = self._place
            inner = self._sequence(f"{key}/{len(options)}", depth=depth + 1)
            source = "".join(self._tokens[begin : self._place])
            entry = read_entry(source, self._where)
            options.append((entry, _without_weight(inner, source)))
            if (token := self._take()) == "}":
                break
            if token != "|":
                raise self._refuse("{" + "".join(self._tokens[start:])[:40], "isn't closed")
        if len({entry.text for entry, _ in options}) < len(options):
            raise self._refuse("|".join(entry.text for entry, _ in options), "has two equal options")
        most = min(most, len(options))
        if least > most:
            raise self._refuse(f"{least}$$", f"asks for more than the {len(options)} options")
        return Variant(key, tuple(options), least, most, separator)

    def _head(self, key: str, depth: int) -> tuple[int, int, tuple[Part, ...]]:
        """`2$$`, `1-2$$`, `2$$ and $$`: how many options, and what joins them."""
        tokens = self._tokens[self._place : self._place + 2]
        if len(tokens) < 2 or tokens[1] != "$$":
            if tokens and tokens[0][:1] in ("@", "~", "!"):
                raise self._refuse(tokens[0][:1], "chooses a sampler, which isn't read")
            return 1, 1, ()
        found = _NUMBER_OF.fullmatch(tokens[0])
        if found is None or not (found[1] or found[3]) or (found[3] and not found[2]):
            raise self._refuse(f"{tokens[0]}$$", "is no number of options")
        self._place += 2
        low = int(found[1] or 1)
        high = int(found[3]) if found[3] else (10**6 if found[2] else low)
        if low > high:
            raise self._refuse(f"{tokens[0]}$$", "begins above its end")
        return low, high, self._separator(key, depth)

    def _separator(self, key: str, depth: int) -> tuple[Part, ...]:
        """`, `, or what stands before a second `$$`."""
        place, level = self._place, 0
        while place < len(self._tokens):
            token = self._tokens[place]
            if level == 0 and token in ("|", "}"):
                return (", ",)
            if level == 0 and token == "$$":
                break
            level += (token in ("{", "${")) - (token == "}")
            place += 1
        else:
            return (", ",)
        end, self._tokens[place] = place, "}"
        parts = self._sequence(f"{key}$", depth=depth + 1)
        self._place = end + 1
        return parts


def _split(text: str) -> Iterator[str]:
    place = 0
    for match in _TOKENS.finditer(text):
        if match.start() > place:
            yield text[place : match.start()]
        yield match[0]
        place = match.end()
    if place < len(text):
        yield text[place:]


def _without_weight(parts: tuple[Part, ...], source: str) -> tuple[Part, ...]:
    """An option's parts without the weight that its text begins with, and without white space round it if it has one."""
    entry_text = source.partition("::")[2] if read_entry(source, "").text != source.strip() else None
    if entry_text is None or not parts or not isinstance(parts[0], str):
        return parts
    first = parts[0].partition("::")[2]
    return (first, *parts[1:]) if first else parts[1:]
