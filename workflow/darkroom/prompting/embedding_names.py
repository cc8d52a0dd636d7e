"""Where textual inversions stand in a prompt: as `embedding:NAME` (ComfyUI), or as the bare name (A1111). No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from darkroom.errors import EmbeddingError
from darkroom.prompting.grammar import parse_pieces

_PREFIX = "embedding:"
_NAME = r"[a-z0-9][a-z0-9._-]*"
_ENDINGS = re.compile(r"(\.safetensors)?[._-]*", re.IGNORECASE)


def find_embeddings(text: str, names: Iterable[str]) -> list[str]:
    """The names, of those that there are, that stand in a prompt, in its order, each once.

    Letter case is passed over, as CLIP does. Raises EmbeddingError (E-EMBEDDING) for `embedding:NAME` with another
    name, with the near ones.
    """
    known = tuple(names)
    if not known and _PREFIX not in text.lower():
        return []
    # Read as the encoder reads it: brackets and backslashes are gone, and BREAK is no word.
    texts = (piece.text for piece in parse_pieces(text) if not piece.is_break)
    found = (name for piece in texts for _, name in split_embeddings(piece, known) if name is not None)
    return list(dict.fromkeys(found))


def split_embeddings(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """A piece of a prompt as (text, None) and ("", name of an embedding). Raises as `find_embeddings` does."""
    pattern, by_key = _pattern(names)
    place = 0
    for match in pattern.finditer(text):
        if match["tag"]:
            continue
        explicit = match["explicit"]
        if explicit is None:
            name, end = by_key[match["bare"].lower()], match.end()
        else:
            name, length = _resolve(explicit, by_key)
            end = match.start("explicit") + length
        if match.start() > place:
            yield text[place : match.start()], None
        yield "", name
        place = end
    if place < len(text):
        yield text[place:], None


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    by_key = {name.lower(): name for name in names}
    longest_first = sorted(by_key, key=len, reverse=True)
    bare = "|".join(map(re.escape, longest_first)) or "(?!)"
    # A LoRA's tag comes first, so that a name in it is passed over.
    pattern = rf"(?P<tag><lora:[^<>]*>)|(?<![\w-])(?:{_PREFIX}(?P<explicit>{_NAME})|(?P<bare>{bare})(?![\w-]))"
    return re.compile(pattern, re.IGNORECASE), by_key


def _resolve(found: str, by_key: dict[str, str]) -> tuple[str, int]:
    """The embedding that is meant, and how many letters say so: a full stop behind it may end a sentence."""
    key = found.lower()
    if key in by_key:
        return by_key[key], len(found)
    for length in range(len(key) - 1, 0, -1):
        if key[:length] in by_key and _ENDINGS.fullmatch(key[length:]):
            return by_key[key[:length]], len(found) if key.endswith("safetensors") else length
    names = list(by_key.values())
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.3)
    hint = f"did you mean {', '.join(near)}?" if near else "list it under embeddings in the configuration"
    raise EmbeddingError("embedding", found, "there is none of that name", hint)
