"""ComfyUI's graph as its API has it: nodes by id, each with a class and inputs, which are values or links to other nodes.

A graph comes from anybody, so it may lack nodes, link to itself, or hold anything as an input. Whatever is followed here ends, and
what is not understood is refused with the node's id and class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import ImageError

MAX_NODES = 20_000
_MAX_DEPTH = 50
_VALUES = {
    **dict.fromkeys(("PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveBoolean"), "value"),
    **dict.fromkeys(("PrimitiveStringMultiline", "INTConstant", "FloatConstant", "StringConstant"), "value"),
    **dict.fromkeys(("StringConstantMultiline", "String Literal", "SimpleText"), "string"),
    **dict.fromkeys(("Text Multiline", "Text _O", "ShowText|pysssss", "Text Prompt (JPS)", "ttN text"), "text"),
    **dict.fromkeys(("Seed (rgthree)", "Seed", "CR Seed", "easy seed", "Seed Generator"), "seed"),
    "CR Prompt Text": "prompt",
    "Int": "Number",
}
"""Nodes that only hold a value, and the input that it is."""
_REROUTES = ("Reroute", "Reroute (rgthree)", "ReroutePrimitive|pysssss")


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its id, its class, and its inputs."""

    id: str
    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"node {self.id} ({shorten(self.kind, 60)})"


def is_link(value: Any) -> bool:
    """True for an input that is another node's output: `["12", 0]`."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)


class Graph:
    """A picture's graph; `path` is for the ImageErrors (E-IMAGE) that all methods raise."""

    def __init__(self, data: Any, path: object) -> None:
        self.path = path
        self.nodes: dict[str, Node] = {}
        if not isinstance(data, dict) or len(data) > MAX_NODES:
            raise self.refusal("is no ComfyUI graph that can be read")
        for key, each in data.items():
            if isinstance(each, dict) and isinstance(each.get("class_type"), str):
                inputs = each.get("inputs")
                self.nodes[str(key)] = Node(str(key), each["class_type"], inputs if isinstance(inputs, dict) else {})
        if not self.nodes:
            raise self.refusal("is no ComfyUI graph that can be read")

    def refusal(self, why: str) -> ImageError:
        """The error to raise."""
        hint = "write a sheet by hand; only plain txt2img graphs are read"
        return ImageError("picture", self.path, f"its graph {why}", hint)

    def unknown(self, node: Node, where: str) -> ImageError:
        """The error for a node that isn't one of a plain txt2img graph."""
        return self.refusal(f"has {node} {where}, which is not understood")

    def linked(self, node: Node, name: str) -> tuple[Node, int]:
        """The node behind an input, past reroutes, and the number of its output."""
        link: Any = node.inputs.get(name)
        seen = {node.id}
        while True:
            if not is_link(link):
                raise self.refusal(f"lacks the input '{name}' of {node}")
            found = self.nodes.get(str(link[0]))
            if found is None:
                raise self.refusal(f"lacks the node {shorten(link[0])}, which {node} is linked to")
            if found.id in seen:
                raise self.refusal(f"leads back to {found}")
            if found.kind not in _REROUTES:
                return found, link[1]
            seen.add(found.id)
            link = next((value for value in found.inputs.values() if is_link(value)), None)

    def value(self, node: Node, name: str, default: Any = None, *, depth: int = 0) -> Any:
        """An input's value, also where a node that only holds values is linked to it; `default` if it is left out."""
        given = node.inputs.get(name, default)
        if not is_link(given):
            return given
        if depth > _MAX_DEPTH:
            raise self.refusal(f"leads back to {node}")
        source, _ = self.linked(node, name)
        if source.kind in _VALUES:
            return self.value(source, _VALUES[source.kind], depth=depth + 1)
        if source.kind == "StringConcatenate":
            parts = [str(self.value(source, key, "", depth=depth + 1)) for key in ("string_a", "string_b")]
            return str(self.value(source, "delimiter", "", depth=depth + 1)).join(parts)
        raise self.unknown(source, f"as '{name}' of {node}")

    def chain(self, node: Node, name: str, through: Mapping[str, str]) -> tuple[list[Node], Node]:
        """The nodes along a chain of inputs, and the first one that isn't of a kind in `through`.

        `through` has the input to go on with for each kind. The chain begins with the input `name` of `node`.
        """
        passed: list[Node] = []
        seen = {node.id}
        while True:
            node, _ = self.linked(node, name)
            if node.id in seen:
                raise self.refusal(f"leads back to {node}")
            seen.add(node.id)
            if node.kind not in through:
                return passed, node
            passed.append(node)
            name = through[node.kind]

    def ends(self) -> list[Node]:
        """The nodes that take pictures and whose outputs nobody takes: what saves or shows pictures."""
        taken = {str(value[0]) for node in self.nodes.values() for value in node.inputs.values() if is_link(value)}
        found = [node for node in self.nodes.values() if is_link(picture_of(node)) and node.id not in taken]
        saving = [node for node in found if node.kind != "PreviewImage"]
        return saving or found


def picture_of(node: Node) -> Any:
    """The input with a node's picture."""
    return node.inputs.get("images", node.inputs.get("image"))
