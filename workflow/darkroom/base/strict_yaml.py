"""YAML: read strictly and as it is written, with the line of every value; and written plainly.

Duplicate keys, tags and alias bombs are refused with their line. Numbers are decimal numbers: a plain scalar that is
no number in its usual form (`010`, `0x10`, `12:30`, `1.50`), no `true` or `false` and not empty is the text that stands
there, so `no` and `007` are texts; where a number is wanted, the text is read as a decimal one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from darkroom.base.text import read_text
from darkroom.base.validation import Mistakes
from darkroom.errors import ConfigError

MAX_NODES = 1_000_000
MAX_CORRECTIONS = 20  # each parses the file again
_MERGE = "tag:yaml.org,2002:merge"
PUT_IN_QUOTES = "put it in quotes"
_NUMBERS = {"tag:yaml.org,2002:int": int, "tag:yaml.org,2002:float": float}
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_ITEM = re.compile(r"(\s*(?:- +)?)((?:[\w-]+: +)?)(\S.*?)\s*")
SEPARATORS = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")  # word processors put them inside of lines
_TEXT_KEY = re.compile(r"(?:negative_)?prompt(?:_2)?: +")
_MARK = re.compile(r"&(\S+)|[!|>](?=\s|$)")
_COMMENT, _WORD_AS_COMMENT = re.compile(r"\s*#"), re.compile(r"\s*#\S")
_TRAILING_COMMENT = re.compile(r"\s+# .*$")
_TEXT_KEYS = re.compile(r"(\{|, *)((?:negative_)?prompt(?:_2)?: +)(?![\"'])(.*?)(?=, *\w+: |, *\w+:$|\} *(?:#.*)?$)")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml where it is compiled in
    """Resolves what JSON has, and merge keys; any other plain scalar is a text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "str", "seq", "map")
    }


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    text = str(loader.construct_scalar(node))
    try:
        value = _NUMBERS[node.tag](text)
    except ValueError:
        return text
    return value if str(value) == text else text


def _construct_boolean(loader: _Loader, node: yaml.ScalarNode) -> bool | str:
    text = str(loader.construct_scalar(node))
    return text in _TRUE if text in _TRUE + _FALSE else text


for _tag, _pattern, _first in (
    ("bool", "|".join(_TRUE + _FALSE), "tTfF"),
    ("int", r"-?\d{1,20}", "-0123456789"),
    ("float", r"-?\d{1,20}\.\d{1,20}", "-0123456789"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
for _tag in _NUMBERS:
    _Loader.add_constructor(_tag, _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_boolean)
_Loader.add_constructor("tag:yaml.org,2002:merge", yaml.SafeLoader.construct_yaml_str)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A YAML file that was read: its data, and where each value of it stands."""

    path: Path | str
    data: Any
    lines: tuple[str, ...]
    root: yaml.Node | None

    def find(self, keys: Sequence[str | int]) -> tuple[yaml.Node | None, yaml.Node | None]:
        """The key's node (an item's own) and the value's, as far down as `keys` lead."""
        found, node = None, self.root
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                pairs = [(k, v) for k, v in node.value if k.value == str(key)]
                if not pairs:
                    return found, None
                found, node = pairs[-1]
            elif isinstance(node, yaml.SequenceNode) and str(key).isdigit() and int(key) < len(node.value):
                found = node = node.value[int(key)]
            else:
                return found, None
        return found, node

    def locate(self, keys: Sequence[str | int]) -> str:
        """`FILE:LINE` of a nested key as far as it can be found in the file, else the file's name."""
        found, _ = self.find(keys)
        return f"{self.path}:{found.start_mark.line + 1}" if found else str(self.path)

    def advise_quotes(self, keys: Sequence[str | int]) -> str:
        """The hint for a value that should be text: its line with the value in quotes.

        An unquoted `#` that is followed by no space, and all text behind it, counts as part of the value.
        """
        _, node = self.find(keys)
        text = self.written(keys)
        if node is None or not text:
            return PUT_IN_QUOTES
        line, start = self.lines[node.start_mark.line], node.start_mark.column
        after = line[start + len(text) :].rstrip() if line.startswith(text, start) else ""
        after = after if after.strip()[:1] in [*",}]"] else ""
        where = ", on one line" if _is_plain(node) and node.end_mark.line > node.start_mark.line else ""
        return f"{PUT_IN_QUOTES}{where}: {f'{line[:start].rstrip()} {quote(text)}{after}'.strip()}"

    def written(self, keys: Sequence[str | int]) -> str:
        """A value's text as it stands in the file, without a comment behind it; of a list or mapping its first line."""
        _, node = self.find(keys)
        if node is None or node.start_mark.line >= len(self.lines):
            return ""
        line, start, end = self.lines[node.start_mark.line], node.start_mark.column, _end_of(node)
        if end.line == node.start_mark.line and not re.fullmatch(r"\s*(#.*)?", line[end.column :]):
            return line[start : end.column].strip()
        parts = [line[start:]]
        if _is_plain(node):
            parts += self.lines[node.start_mark.line + 1 : end.line + 1]
        return _TRAILING_COMMENT.sub("", " ".join(part.strip() for part in parts)).strip()

    def find_loss(self, keys: Sequence[str | int], *, is_required: bool) -> str | None:
        """What YAML leaves out of a text: all behind a `#` if it has no quotes, or a mark of YAML's own at its start.

        Behind a text that may be empty, a `#` and a space begin a comment.
        """
        _, node = self.find(keys)
        if not isinstance(node, yaml.ScalarNode):
            return None
        start, end = node.start_mark, node.end_mark
        mark = _MARK.match(self.lines[start.line], start.column) if start.line < len(self.lines) else None
        is_anchor = mark and mark[1] and any(f"*{mark[1]}" in line for line in self.lines)
        if mark and not is_anchor and (mark[0] not in "|>" or not node.value):
            return f"the word {mark[0]}"
        cut = _COMMENT if node.value or is_required else _WORD_AS_COMMENT
        is_cut = end.line < len(self.lines) and not node.style and cut.match(self.lines[end.line], end.column)
        return "all from the # on" if is_cut else None


def load_yaml(path: Path | str) -> Any:
    """Read a YAML file strictly. Raises ConfigError (E-CONFIG) with line and column."""
    return read_yaml(path).data


def read_yaml(
    path: Path | str,
    *,
    mistakes: Mistakes | None = None,
    missing: str = "create it, or name another",
    item_keys: Collection[str] = (),
) -> YamlFile:
    """Read a YAML file strictly, with the places of its values; `missing` is the hint if there is no such file.

    Raises ConfigError (E-CONFIG) with line and column, and with the corrected line where a text needs quotes. With
    `mistakes` such errors are added to it, and the file is read as if its lines were corrected. An item of a list that
    begins with another key than `item_keys` may be a text as a whole.
    """
    return _read_text(path, read_text(Path(path), missing=missing), mistakes, item_keys)


def parse_yaml(text: str, name: str) -> Any:
    """Read a YAML text that stands in no file as strictly; errors call it by its name. Raises ConfigError (E-CONFIG)."""
    return _read_text(name, text, None, ()).data


def _read_text(path: Path | str, text: str, mistakes: Mistakes | None, item_keys: Collection[str]) -> YamlFile:
    lines = SEPARATORS.sub(" ", text).split("\n")
    found = Mistakes()
    try:
        root, data = _parse_corrected(path, lines, found, item_keys)
    except ConfigError as error:
        found.add(error)
        root, data = None, None
        mistakes = None
    except yaml.YAMLError as error:
        raise ConfigError("YAML error in", path, str(error), "fix the file") from None
    except RecursionError:
        raise ConfigError("YAML error in", path, "is nested too deeply", "fix the file") from None
    if mistakes is None:
        found.raise_all()
    else:
        mistakes.add(*found.errors)
    return YamlFile(path, data, tuple(lines), root)


def locate(path: Path | str, keys: Sequence[str | int]) -> str:
    """`FILE:LINE` of a nested key as far as it can be found in the file, else the file's name."""
    try:
        return read_yaml(path).locate(keys)
    except ConfigError:
        return str(path)


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, in its own order, one entry a line."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def quote(text: str) -> str:
    """The text as a quoted YAML scalar."""
    if '"' in text or "\\" in text:
        return "'" + text.replace("'", "''") + "'"
    return f'"{text}"'


def find_unportable(file: YamlFile) -> list[ConfigError]:
    """What Snakemake, which reads the configuration by YAML 1.1, can't read, and keys that are no text to it.

    Values that it reads otherwise are no mistake: `restore_text` gets them back.
    """
    found, stack = [], [(file.root, False)] if file.root else []
    while stack:
        node, is_key = stack.pop()
        if isinstance(node, yaml.SequenceNode):
            stack.extend((item, False) for item in reversed(node.value))
        elif isinstance(node, yaml.MappingNode):
            stack.extend(pair for key, value in reversed(node.value) for pair in ((value, False), (key, True)))
        elif isinstance(node, yaml.ScalarNode) and not node.style:
            place, mark = f"{file.path}:{node.start_mark.line + 1}", ":" if is_key else ""
            try:
                read = _read_as_yaml_1_1(node.value)
            except (ValueError, KeyError, yaml.YAMLError):
                read, why = None, f"is nothing that Snakemake can read ({place})"
            else:
                why = f"YAML reads it as {read} ({place})"
                if isinstance(read, str) or not is_key:
                    continue
            found.append(
                ConfigError(
                    "key" if is_key else "value", node.value, why, f"{PUT_IN_QUOTES}: {quote(node.value)}{mark}"
                )
            )
    return found


def restore_text(data: Any, written: Any) -> Any:
    """Data that YAML 1.1 was read into, with the texts that are `written` in place of what it took them for.

    A value that differs from what is written stays: it was given elsewhere, such as on the command line.
    """
    if isinstance(data, dict) and isinstance(written, dict):
        return {key: restore_text(value, written.get(key)) for key, value in data.items()}
    if isinstance(data, list) and isinstance(written, list) and len(data) == len(written):
        return [restore_text(*pair) for pair in zip(data, written, strict=True)]
    is_other = isinstance(written, str) and not isinstance(data, str)
    return written if is_other and _read_as_yaml_1_1(written) == data else data


def _read_as_yaml_1_1(text: str) -> Any:
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return text if tag == _MERGE else loader.construct_object(yaml.ScalarNode(tag, text))


def _parse(lines: Sequence[str]) -> tuple[yaml.Node | None, Any]:
    loader = _Loader("\n".join(lines))
    root = loader.get_single_node()
    if root is None:
        return None, None
    _check_nodes(root)
    return root, loader.construct_document(root)


def _parse_corrected(
    path: Path | str, lines: list[str], found: Mistakes, item_keys: Collection[str]
) -> tuple[yaml.Node | None, Any]:
    """Parse the lines; a text that needs quotes gets them, in `lines`, and is one of the mistakes found.

    Raises ConfigError (E-CONFIG) for a mistake that quotes don't mend.
    """
    while True:
        try:
            return _parse(lines)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            problem, hint = error.problem or "can't be parsed", _quote_text(lines, error, item_keys)
        if hint is None:
            is_tab = mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t"
            hint = "write spaces in place of the tab" if is_tab else "fix that line"
            raise ConfigError("YAML error at", place, problem, hint)
        found.add(ConfigError("YAML error at", place, problem, hint))
        if len(found.errors) == MAX_CORRECTIONS:
            raise found.errors.pop()


def _quote_text(lines: list[str], error: yaml.MarkedYAMLError, item_keys: Collection[str]) -> str | None:
    """Put quotes round the text that YAML can't read, if that mends the error; the hint that says so, else None."""
    if type(error) is yaml.MarkedYAMLError:  # found by this module: no text is the reason
        return None
    marks = [mark.line for mark in (error.problem_mark, error.context_mark) if mark]
    for number in dict.fromkeys([*marks, *(line - 1 for line in marks)]):
        if not 0 <= number < len(lines):
            continue
        for corrected in _corrections(lines[number], lines[number + 1 : number + 2], item_keys):
            after = [*lines[:number], *corrected, *lines[number + len(corrected) :]]
            if _first_error(after) > marks[0]:
                lines[:] = after
                where = f"{', on one line' if len(corrected) > 1 else ''}{f' (line {number + 1})' if number != marks[0] else ''}"
                return f"{PUT_IN_QUOTES}{where}: {corrected[0].strip()}"
    return None


def _first_error(lines: Sequence[str]) -> float:
    """The number of the line in which parsing fails; infinity if it doesn't."""
    try:
        _parse(lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return mark.line if mark else 0
    except (yaml.YAMLError, RecursionError):
        return 0
    return math.inf


def _check_nodes(root: yaml.Node) -> None:
    """Refuse duplicate keys, and documents whose aliases would unfold into more nodes than anyone wrote by hand."""
    stack, count = [root], 0
    while stack:
        node = stack.pop()
        count += 1
        if count > MAX_NODES:
            raise yaml.MarkedYAMLError(problem="unfolds into too many values", problem_mark=root.start_mark)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        problem = f"the key '{key.value}' stands here twice"
                        raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                    seen.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)


def _is_plain(node: yaml.Node) -> bool:
    """True for a scalar without quotes, which is not a block either."""
    return isinstance(node, yaml.ScalarNode) and not node.style


def _end_of(node: yaml.Node) -> yaml.Mark:
    """Where a value ends; a block's own mark is at the next thing after it."""
    while isinstance(node, yaml.MappingNode | yaml.SequenceNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node.end_mark


def _corrections(line: str, after: Sequence[str], item_keys: Collection[str]) -> Iterator[list[str]]:
    """What may have been meant: the line with quotes, or together with the line after it, where a `#` came between."""
    item = _ITEM.fullmatch(line)
    if item is None or item[3].startswith("#"):
        return
    indent, key, rest = item.groups()
    if item_keys and indent.strip() and key and key.split(":")[0] not in item_keys:
        key, rest = "", key + rest
    is_text = _TEXT_KEY.fullmatch(key) if key else bool(indent.strip())
    if rest.startswith("{"):
        in_braces = _TEXT_KEYS.sub(lambda found: f"{found[1]}{found[2]}{quote(found[3].strip())}", line)
        if in_braces != line:
            yield [in_braces]
    if rest[0] in "\"'" and rest.count(rest[0]) % 2 and len(rest) > 1:
        yield [indent + key + rest + rest[0]]
    opening, closing = ("{", "}") if rest[0] == "{" else ("[", "]")
    if is_text or (key and rest.count(opening) <= rest.count(closing) and not rest.startswith("!!")):
        yield [indent + key + quote(_TRAILING_COMMENT.sub("", rest))]
    if is_text and " #" in rest and after:
        yield [indent + key + quote(f"{rest} {after[0].strip()}"), ""]
