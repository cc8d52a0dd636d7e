"""YAML: read strictly (duplicate keys, tags and alias bombs are refused with their line), and written plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from darkroom.errors import ConfigError

MAX_FILE_BYTES = 64 * 2**20
MAX_NODES = 1_000_000

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is compiled in


def load_yaml(path: Path | str) -> Any:
    """Read a YAML file strictly. Raises ConfigError (E-CONFIG) with line and column."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError("file", path, "is larger than 64 MiB", "split it")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("file", path, "does not exist", "create it, or name another with --configfile") from None
    except UnicodeDecodeError:
        raise ConfigError("file", path, "is not UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigError("file", path, error.strerror or "can't be read", "check the path") from None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(root)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError("YAML error at", place, error.problem or "can't be parsed", "fix that line") from None
    except yaml.YAMLError as error:
        raise ConfigError("YAML error in", path, str(error), "fix the file") from None
    except RecursionError:
        raise ConfigError("YAML error in", path, "is nested too deeply", "fix the file") from None


def locate(path: Path | str, keys: list[str]) -> str:
    """`FILE:LINE` of a nested key as far as it can be found in the file, else the file's name."""
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return str(path)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == key]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return f"{path}:{line}" if line else str(path)


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, in its own order, one entry a line."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


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
                if key.value in seen and isinstance(key, yaml.ScalarNode):
                    problem = f"the key '{key.value}' stands here twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
