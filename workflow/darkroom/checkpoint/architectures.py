"""Architectures, which are folders of model_index.json and component configs, and finding the one that a file has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkroom.base.validation import first_problem
from darkroom.checkpoint.families import Family, describe_family
from darkroom.checkpoint.header import Header, Shape, TensorInfo
from darkroom.checkpoint.index import ModelConfigs, read_model_configs
from darkroom.checkpoint.keymap import NAMESPACES, Entry, component_entries, is_ignored
from darkroom.checkpoint.layouts import best_layout, checkpoint_layouts
from darkroom.errors import ArchitectureError, IndexFileError, ModelError
from darkroom.resources import RESOURCES

ARCHITECTURES = RESOURCES / "architectures"
ENOUGH = 0.5
"""The share of tensors in which a file and an architecture must agree."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's configs, and the key map's entries by component; `reason` says why it was chosen."""

    name: str
    configs: ModelConfigs
    entries: dict[str, list[Entry]]
    reason: str = ""

    def source_shapes(self) -> dict[str, Shape]:
        """The tensors that a single-file checkpoint of this architecture has."""
        return {entry.source: entry.source_shape for entries in self.entries.values() for entry in entries}


def architecture_names() -> list[str]:
    """The architectures that come with Darkroom."""
    return sorted(folder.name for folder in ARCHITECTURES.iterdir() if (folder / "model_index.json").is_file())


def load_architecture(name_or_folder: str | Path) -> Architecture:
    """An architecture by its name or by a folder of configs.

    Raises ArchitectureError (E-ARCH) if there is no such folder, IndexFileError (E-INDEX) for configs that aren't
    allowed.
    """
    text = str(name_or_folder)
    folder = ARCHITECTURES / text if text in architecture_names() else Path(text)
    try:
        configs = read_model_configs(folder)
    except IndexFileError:
        raise
    except ModelError as error:
        known = ", ".join(architecture_names())
        raise ArchitectureError(
            "architecture", text, error.why, f"known are {known}; or give a folder of configs"
        ) from None
    return Architecture(folder.resolve().name, configs, component_tensors(configs))


def component_tensors(configs: ModelConfigs) -> dict[str, list[Entry]]:
    """The tensors of every component; raises IndexFileError (E-INDEX) for configs that SDXL can't have."""
    found = {}
    for component in configs.components:
        try:
            config = configs.components[component]
            found[component] = component_entries(component, config, is_refiner=configs.is_refiner)
        except ValidationError as error:
            first = first_problem(error)
            where = f"{component}/config.json: {first.name or 'fields'}"
            value = _value_at(configs.components[component], first.keys)
            raise IndexFileError(where, value, first.reason, "use an SDXL model's configs") from None
    return found


def expected_tensors(architecture: Architecture) -> dict[str, dict[str, Shape]]:
    """Every tensor that the Diffusers folder must hold: component, tensor name, shape."""
    return {
        component: {entry.name: entry.shape for entry in entries} for component, entries in architecture.entries.items()
    }


def choose_architecture(header: Header, wanted: str, name: object) -> Architecture:
    """The architecture `wanted`, or for `auto` the one that the header fits best; `name` is the file's, for errors.

    Raises ArchitectureError (E-ARCH) with what the file is and what is needed.
    """
    family = describe_family(header.tensors)
    if wanted == "auto":
        return _detect(header, family, name)
    chosen = load_architecture(wanted)
    needed = f"the '{chosen.name}' architecture"
    if family is not None:
        raise _unfit(name, family, needed)
    if _agreement(chosen, header.tensors)[0] <= ENOUGH:
        raise _unfit(name, _found(header), needed)
    return Architecture(chosen.name, chosen.configs, chosen.entries, "named by the configuration")


def detect(header: Header, name: object = "checkpoint") -> Architecture:
    """The architecture that comes with Darkroom and fits the header best; raises ArchitectureError (E-ARCH)."""
    return choose_architecture(header, "auto", name)


def _detect(header: Header, family: Family | None, name: object) -> Architecture:
    if family is not None:
        raise _unfit(name, family, "an SDXL checkpoint")
    agreements = {known.name: _agreement(known, header.tensors) for known in _known_architectures()}
    best = max(_known_architectures(), key=lambda known: agreements[known.name][0])
    share, fitting, total = agreements[best.name]
    if share <= ENOUGH:
        raise _unfit(name, _found(header), "an SDXL checkpoint")
    reason = f"{fitting} of {total} tensors have its names and shapes"
    return Architecture(best.name, best.configs, best.entries, reason)


@cache
def _known_architectures() -> tuple[Architecture, ...]:
    return tuple(load_architecture(name) for name in architecture_names())


def name_of(entries: Mapping[str, list[Entry]]) -> str:
    """The name of the architecture that has these tensors by component, or `custom`."""
    shapes = {name: _shapes(found) for name, found in entries.items()}
    for known in _known_architectures():
        if shapes == {name: _shapes(found) for name, found in known.entries.items()}:
            return known.name
    return "custom"


def fits(shape: Shape, expected: Shape) -> bool:
    """True if a source tensor's shape is the expected one, also where it is written as a 1x1 convolution."""
    return shape == expected or (shape == (*expected, 1, 1) and len(expected) == 2)


def _shapes(entries: list[Entry]) -> dict[str, Shape]:
    return {entry.name: entry.shape for entry in entries}


def _agreement(architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> tuple[float, int, int]:
    """How well tensors and an architecture agree, from 0 to 1; the number of its tensors that fit, and of all of them.

    Unknown tensors with a component's prefix count against an architecture: the distilled relatives of SDXL have a part
    of its tensors and no others.
    """
    fitting = total = 0
    sources: set[str] = set()
    for component, original in architecture.entries.items():
        layout = best_layout(checkpoint_layouts(component, original), tensors)
        shapes = {entry.source: entry.source_shape for entry in layout.entries}
        fitting += sum(1 for key, shape in shapes.items() if key in tensors and fits(tensors[key].shape, shape))
        total += len(shapes)
        sources |= shapes.keys()
    strange = sum(1 for key in tensors if key.startswith(NAMESPACES) and key not in sources and not is_ignored(key))
    return fitting / (total + strange), fitting, total


def _unfit(name: object, family: Family, needed: str) -> ArchitectureError:
    return ArchitectureError("checkpoint", name, f"found {family.found}; needed {needed}", family.hint)


def _found(header: Header) -> Family:
    found = "a file without tensors"
    if header.tensors:
        found = f"{len(header.tensors)} unknown tensors such as '{min(header.tensors)[:80]}'"
    return Family(found, "use an SDXL checkpoint, or set architecture to a folder of its configs")


def _value_at(config: Any, keys: tuple[str | int, ...]) -> Any:
    """The config's value at the keys of a pydantic error."""
    for key in keys:
        try:
            config = config[key]
        except (IndexError, KeyError, TypeError):
            break
    return None if isinstance(config, dict) else config
