"""What a component's tensor is called, and where in a single-file checkpoint its numbers stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkroom.checkpoint.header import Shape


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a Diffusers component and the source tensor that it is made from.

    `source_row` is the first row that it takes of a larger, fused source tensor; `transposed` says that the
    source holds rows and columns the other way round. A source of shape (a, b, 1, 1) also serves where
    `source_shape` is (a, b): a 1x1 convolution holds the same bytes as a linear layer.
    """

    name: str
    shape: Shape
    source: str
    source_shape: Shape
    source_row: int = 0
    transposed: bool = False


@dataclass(slots=True)
class Walk:
    """Collects entries while a component's layers are walked through; `prefix` opens every source name."""

    prefix: str
    entries: list[Entry] = field(default_factory=list)

    def tensor(self, name: str, source: str, *shape: int) -> None:
        self.entries.append(Entry(name, shape, self.prefix + source, shape))

    def norm(self, name: str, source: str, channels: int) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", channels)
        self.tensor(f"{name}.bias", f"{source}.bias", channels)

    def linear(self, name: str, source: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", outputs, inputs)
        if bias:
            self.tensor(f"{name}.bias", f"{source}.bias", outputs)

    def conv(self, name: str, source: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", outputs, inputs, kernel, kernel)
        self.tensor(f"{name}.bias", f"{source}.bias", outputs)

    def fused(self, names: tuple[str, ...], source: str, rows: int, *columns: int) -> None:
        """Several tensors of `rows` rows each that lie one below the other in one source tensor."""
        whole = (rows * len(names), *columns)
        for number, name in enumerate(names):
            self.entries.append(Entry(name, (rows, *columns), self.prefix + source, whole, source_row=number * rows))

    def transposed(self, name: str, source: str, rows: int, columns: int) -> None:
        self.entries.append(Entry(name, (rows, columns), self.prefix + source, (columns, rows), transposed=True))
