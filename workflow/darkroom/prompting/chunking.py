"""From a prompt's tokens to the chunks a CLIP text encoder takes: at most 75 tokens between a start and an end token.

Each emphasis mode divides as the program that it follows does, so that the same prompt gives the same chunks:

`lpw`: every full group of 75 is a chunk of 77, the rest a shorter chunk; the shorter of prompt and negative prompt is
filled with end tokens to the other's length (diffusers, examples/community/lpw_stable_diffusion_xl.py).
`a1111`, `no_norm`: every chunk is padded to 77; a phrase that would be cut is moved to the next chunk if a comma stands
at most 20 tokens before (modules/sd_hijack_clip.py, `tokenize_line`).
`comfy`: the same padding; a word of fewer than 8 tokens is never cut (comfy/sd1_clip.py, `tokenize_with_weights`).
In the last three, missing chunks of the shorter prompt are empty prompts, as with A1111's "pad prompt/negative prompt"
and in ComfyUI's CLIPTextEncodeSDXL between the encoders; otherwise both programs run prompt and negative prompt
separately. An embedding that a chunk can hold is never cut in these three; ComfyUI cuts one of 8 vectors or more.

BREAK begins a new chunk. In `lpw` it fills the current group, and has no effect at a group's boundary or at the end; in
the others it always ends the chunk, as in A1111. Inside brackets it has the same effect: A1111 takes it for a word
there, and ComfyUI everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from darkroom.prompting.tokens import Break, Run

GROUP = 75
COMMA_REACH = 20
"""A1111's default of `comma_padding_backtrack`."""
WORD = 8
"""ComfyUI's `max_word_length`: words of so many tokens or more may be cut."""

Group = list[tuple[int, float]]
"""Tokens with their weights, without start and end."""
Runs = Sequence[Run | Break]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The input of an encoder: at most 77 tokens with start and end, and their weights."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def is_weighted(self) -> bool:
        return any(weight != 1.0 for weight in self.weights)


def lay_out(mode: str, tokenizers: Sequence[Any], prompts: Sequence[Sequence[Runs]]) -> list[list[list[Chunk]]]:
    """The chunks of every prompt, for each tokenizer: `[tokenizer][prompt][chunk]`; `prompts` is `[tokenizer][prompt]`.

    All prompts get equally many chunks of equal lengths, for both tokenizers, so that the encoders' outputs can be
    joined: the tokenizers may disagree about a text's length (SDXL's second one reads `!!` as two tokens).
    """
    if mode == "lpw":
        return _lay_out_lpw(tokenizers, prompts)
    divide = _DIVIDE[mode]
    groups = [
        [divide(runs, _comma(tokenizer)) for runs in own] for tokenizer, own in zip(tokenizers, prompts, strict=True)
    ]
    count = max(len(of_prompt) for own in groups for of_prompt in own)
    return [
        [[_padded(group, tokenizer) for group in [*of_prompt, *[[]] * (count - len(of_prompt))]] for of_prompt in own]
        for tokenizer, own in zip(tokenizers, groups, strict=True)
    ]


def empty_chunk(tokenizer: Any) -> Chunk:
    """The empty prompt, padded to 77."""
    return _padded([], tokenizer)


def _lay_out_lpw(tokenizers: Sequence[Any], prompts: Sequence[Sequence[Runs]]) -> list[list[list[Chunk]]]:
    rows = [
        [_fill_breaks(runs, tokenizer.eos_token_id) for runs in own]
        for tokenizer, own in zip(tokenizers, prompts, strict=True)
    ]
    longest = max(len(row) for own in rows for row in own)
    return [
        [_cut(row + [(tokenizer.eos_token_id, 1.0)] * (longest - len(row)), tokenizer) for row in own]
        for tokenizer, own in zip(tokenizers, rows, strict=True)
    ]


def _fill_breaks(runs: Runs, eos: int) -> Group:
    row: Group = []
    is_broken = False
    for run in runs:
        if isinstance(run, Break):
            is_broken = True
            continue
        if is_broken:
            row += [(eos, 1.0)] * (-len(row) % GROUP)
            is_broken = False
        row += [(token, run.weight) for token in run.ids]
    return row


def _cut(row: Group, tokenizer: Any) -> list[Chunk]:
    """Groups of 75 with start and end around them; no tokens at all give one chunk of just these two."""
    starts = range(0, max(len(row), 1), GROUP)
    return [_framed(row[start : start + GROUP], tokenizer) for start in starts]


def _framed(group: Group, tokenizer: Any, padding: int = 0) -> Chunk:
    ids = (tokenizer.bos_token_id, *(token for token, _ in group), tokenizer.eos_token_id)
    weights = (1.0, *(weight for _, weight in group), 1.0)
    return Chunk(ids + (tokenizer.pad_token_id,) * padding, weights + (1.0,) * padding)


def _padded(group: Group, tokenizer: Any) -> Chunk:
    """A chunk of 77. SDXL's first tokenizer pads with end tokens, its second with `!`."""
    return _framed(group, tokenizer, GROUP - len(group))


def _comma(tokenizer: Any) -> int:
    return int(tokenizer.convert_tokens_to_ids(",</w>"))


def _divide_a1111(runs: Runs, comma: int) -> list[Group]:
    groups: list[Group] = []
    group: Group = []
    last_comma: int | None = None

    def close(end: int = GROUP) -> None:
        """End the group at `end`; the tokens after it begin the next group."""
        nonlocal group, last_comma
        groups.append(group[:end])
        group, last_comma = group[end:], None

    def make_room(token: int) -> None:
        """End a full group: after its last comma if that is near and the token isn't a comma, else at its end."""
        if len(group) == GROUP:
            is_near = last_comma is not None and GROUP - last_comma <= COMMA_REACH
            close(last_comma + 1 if last_comma is not None and is_near and token != comma else GROUP)

    for run in runs:
        if isinstance(run, Break):
            close()
            continue
        if run.is_embedding:
            make_room(run.ids[0])
            if len(group) + len(run.ids) > GROUP:
                close()
        for token in run.ids:
            make_room(token)
            if token == comma:
                last_comma = len(group)
            group.append((token, run.weight))
    if group or not groups:
        close()
    return groups


def _divide_comfy(runs: Runs, comma: int) -> list[Group]:
    groups: list[Group] = [[]]
    for run in runs:
        if isinstance(run, Break):
            groups.append([])
            continue
        left = [(token, run.weight) for token in run.ids]
        may_be_cut = len(left) > GROUP if run.is_embedding else len(left) >= WORD
        while left:
            room = GROUP - len(groups[-1])
            if len(left) > room:
                taken = room if may_be_cut else 0
                groups[-1] += left[:taken]
                left = left[taken:]
                groups.append([])
            else:
                groups[-1] += left
                left = []
    return groups if groups[-1] or len(groups) == 1 else groups[:-1]


_DIVIDE: dict[str, Callable[[Runs, int], list[Group]]] = {
    "a1111": _divide_a1111,
    "no_norm": _divide_a1111,
    "comfy": _divide_comfy,
}
