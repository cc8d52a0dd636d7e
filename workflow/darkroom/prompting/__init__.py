"""Prompts: the attention grammar, the division into chunks, and their embeddings."""

from __future__ import annotations

from darkroom.prompting.encode import PromptEmbeddings, encode_prompt
from darkroom.prompting.grammar import parse_prompt_attention

__all__ = ["PromptEmbeddings", "encode_prompt", "parse_prompt_attention"]
