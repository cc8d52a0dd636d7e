"""Prompts: the attention grammar, the division into chunks, and their embeddings.

Takes prompts of any length, tokenizers, text encoders and textual inversions. Gives the tensors that the UNet is
conditioned on; the grammar alone needs no torch.
Never changes a text encoder's weights or asks the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.prompting.encode import PromptEmbeddings, encode_prompt
    from darkroom.prompting.grammar import parse_prompt_attention
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(
        __name__,
        {"encode": ("PromptEmbeddings", "encode_prompt"), "grammar": ("parse_prompt_attention",)},
    )

__all__ = ["PromptEmbeddings", "encode_prompt", "parse_prompt_attention"]
