"""The prompts of requests as embeddings, each text encoded once and cached; which one each call of the model takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from darkroom.engine.placement import Placement
from darkroom.prompting import PromptEmbeddings, encode_prompt
from darkroom.prompting.editing import Timeline
from darkroom.prompting.embeddings import Embedding
from darkroom.request.render_request import RenderRequest

T = TypeVar("T")
Pair = tuple[str, str]
"""A text for each of the two text encoders."""
MAX_BYTES = 256 * 2**20
"""The size of the cache: some 200 pairs of short prompts in fp32."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The embeddings of a picture's texts, and which of them each call of the model takes.

    `embeddings` has a row for each text; `rows` are the rows of prompt and negative prompt by the call's number.
    """

    embeddings: PromptEmbeddings
    rows: tuple[tuple[int, int], ...]

    def changes(self, call: int) -> bool:
        """Whether the call takes other texts than the one before it."""
        return self._rows(call) != self._rows(call - 1)

    def at_call(self, call: int) -> dict[str, Any]:
        """The pipeline's arguments: embeddings (1, n, d) and pooled vectors (1, p) of prompt and negative prompt."""
        (prompt, negative), all_rows = self._rows(call), self.embeddings
        return {
            "prompt_embeds": all_rows.prompt_embeds[prompt : prompt + 1],
            "negative_prompt_embeds": all_rows.negative_prompt_embeds[negative : negative + 1],
            "pooled_prompt_embeds": all_rows.pooled_prompt_embeds[prompt : prompt + 1],
            "negative_pooled_prompt_embeds": all_rows.negative_pooled_prompt_embeds[negative : negative + 1],
        }

    def _rows(self, call: int) -> tuple[int, int]:
        return self.rows[min(call, len(self.rows) - 1)]


class Prompts:
    """Encodes with a pipeline's tokenizers and text encoders. A result depends on the arguments alone."""

    def __init__(self, pipeline: Any, placement: Placement) -> None:
        self._pipeline = pipeline
        self._placement = placement
        self._known: OrderedDict[Hashable, PromptEmbeddings] = OrderedDict()
        self._bytes = 0

    def encode(
        self, request: RenderRequest, embeddings: Mapping[str, Embedding], state: Hashable
    ) -> tuple[Conditioning, bool]:
        """The embeddings of a request's prompts, and True if they came from the cache.

        `state` identifies everything that changes them and isn't in the request: the text encoders' LoRAs, and the
        files that textual inversions were read from. Raises what `encode_prompt` and `RenderRequest.timelines` raise.
        """
        prompt, negative, prompt_2, negative_2 = request.timelines
        prompts, prompt_rows = _texts_by_call(prompt, prompt_2)
        negatives, negative_rows = _texts_by_call(negative, negative_2)
        calls = max(len(prompt_rows), len(negative_rows))
        rows = tuple(zip(_filled(prompt_rows, calls), _filled(negative_rows, calls), strict=True))
        clip_skip = max(request.clip_skip - 1, 0)  # A1111 counts the usual layer as 1
        key = (prompts, negatives, request.emphasis, clip_skip, state)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return Conditioning(known, rows), True
        made = self._encode(prompts, negatives, request.emphasis, clip_skip, embeddings)
        self._remember(key, made)
        return Conditioning(made, rows), False

    def _encode(
        self,
        prompts: Sequence[Pair],
        negatives: Sequence[Pair],
        emphasis: str,
        clip_skip: int,
        embeddings: Mapping[str, Embedding],
    ) -> PromptEmbeddings:
        count = max(len(prompts), len(negatives))
        texts, texts_2 = zip(*_filled(prompts, count), strict=True)
        negative_texts, negative_texts_2 = zip(*_filled(negatives, count), strict=True)
        parts = self._pipeline
        # SDXL's refiner has the second of both alone.
        tokenizers = [each for each in (parts.tokenizer, parts.tokenizer_2) if each is not None]
        encoders = [each for each in (parts.text_encoder, parts.text_encoder_2) if each is not None]
        self._placement.bring(*encoders)
        return encode_prompt(
            tokenizers,
            encoders,
            texts,
            negative_texts,
            prompt_2=texts_2,
            negative_prompt_2=negative_texts_2,
            emphasis=emphasis,
            clip_skip=clip_skip,
            embeddings=embeddings,
        )

    def _remember(self, key: Hashable, made: PromptEmbeddings) -> None:
        self._known[key] = made
        self._bytes += _size(made)
        while self._bytes > MAX_BYTES and len(self._known) > 1:
            self._bytes -= _size(self._known.popitem(last=False)[1])


def _texts_by_call(first: Timeline | None, second: Timeline | None) -> tuple[tuple[Pair, ...], tuple[int, ...]]:
    """The different texts for both encoders, and which of them each call of the model takes.

    The second encoder reads the first one's text unless it has one of its own.
    """
    first = first or Timeline((1,), ("",))
    second = second or first
    calls = max(first.ends[-1], second.ends[-1]) + 1 if len(first.texts) + len(second.texts) > 2 else 1
    pairs = [(first.at_call(call), second.at_call(call)) for call in range(calls)]
    rows = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
    return tuple(rows), tuple(rows[pair] for pair in pairs)


def _filled(values: Sequence[T], count: int) -> Sequence[T]:
    """The values and the last one again, so that there are `count`."""
    return [*values, *[values[-1]] * (count - len(values))]


def _size(made: PromptEmbeddings) -> int:
    tensors = (
        made.prompt_embeds,
        made.negative_prompt_embeds,
        made.pooled_prompt_embeds,
        made.negative_pooled_prompt_embeds,
    )
    return sum(int(tensor.nbytes) for tensor in tensors)
