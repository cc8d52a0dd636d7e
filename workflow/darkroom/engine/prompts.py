"""The prompts of requests as embeddings, each encoded once and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from darkroom.prompting import PromptEmbeddings, encode_prompt
from darkroom.prompting.embeddings import Embedding
from darkroom.request.lora_tags import take_out_loras
from darkroom.request.render_request import RenderRequest

MAX_BYTES = 256 * 2**20
"""The size of the cache: some 200 pairs of short prompts in fp32."""


class Prompts:
    """Encodes with a pipeline's tokenizers and text encoders. A result depends on the arguments alone."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._known: OrderedDict[Hashable, PromptEmbeddings] = OrderedDict()
        self._bytes = 0

    def encode(
        self, request: RenderRequest, embeddings: Mapping[str, Embedding], state: Hashable
    ) -> tuple[PromptEmbeddings, bool]:
        """The embeddings of a request's prompts, and True if they came from the cache.

        `state` identifies everything that changes them and isn't in the request: the text encoders' LoRAs, and the
        files that textual inversions were read from. Raises what `encode_prompt` raises.
        """
        texts = [
            None if text is None else take_out_loras(text)[0]
            for text in (request.prompt, request.negative_prompt, request.prompt_2, request.negative_prompt_2)
        ]
        clip_skip = max(request.clip_skip - 1, 0)  # A1111 counts the usual layer as 1
        key = (*texts, request.emphasis, clip_skip, state)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known, True
        parts, (prompt, negative, prompt_2, negative_2) = self._pipeline, texts
        made = encode_prompt(
            (parts.tokenizer, parts.tokenizer_2),
            (parts.text_encoder, parts.text_encoder_2),
            prompt or "",
            negative or "",
            prompt_2=prompt_2,
            negative_prompt_2=negative_2,
            emphasis=request.emphasis,
            clip_skip=clip_skip,
            embeddings=embeddings,
        )
        self._remember(key, made)
        return made, False

    def _remember(self, key: Hashable, made: PromptEmbeddings) -> None:
        self._known[key] = made
        self._bytes += _size(made)
        while self._bytes > MAX_BYTES and len(self._known) > 1:
            self._bytes -= _size(self._known.popitem(last=False)[1])


def _size(made: PromptEmbeddings) -> int:
    tensors = (
        made.prompt_embeds,
        made.negative_prompt_embeds,
        made.pooled_prompt_embeds,
        made.negative_pooled_prompt_embeds,
    )
    return sum(int(tensor.nbytes) for tensor in tensors)
