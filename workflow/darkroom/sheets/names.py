"""Names of sheets and ids of prompts, which become names of folders and files on every file system.

An id that isn't given is made of the prompt's first words and a hash of the prompt, so that moving a prompt within its
sheet renders nothing again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from darkroom.config import NAME_PATTERN
from darkroom.errors import BadNameError

MAX_ID = 80
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{n}" for device in ("com", "lpt") for n in range(10))}
"""Names that Windows refuses for a file, whatever its suffix."""


def name_sheets(paths: list[str]) -> dict[str, Path]:
    """The sheets' paths by name, which is a file's name without its suffix.

    Raises BadNameError (E-NAME) for a name that can't be a folder's, and for two that differ in case only.
    """
    sheets: dict[str, Path] = {}
    taken: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        if not NAME_PATTERN.fullmatch(name) or name.casefold() == "thumbnails":  # results/thumbnails is the gallery's
            why, hint = "a sheet's file name becomes a folder's name", "use letters, digits, '-' and '_'"
            raise BadNameError("sheet", name, why, hint)
        if name.casefold() in taken:
            raise BadNameError(
                "sheet", path, f"has the same name as {taken[name.casefold()]}", "rename one of the two files"
            )
        taken[name.casefold()] = path
        sheets[name] = Path(path)
    return sheets


def make_id(text: object, where: str) -> str:
    """The file name of a given id: lower case, spaces as '-'. Raises BadNameError (E-NAME) if it can't be one."""
    slug = re.sub(r"\s+", "-", str(text).strip()).lower()
    usable = re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", slug) and ".." not in slug and not slug.endswith(".")
    if not usable or len(slug) > MAX_ID or slug.split(".")[0] in RESERVED:
        why, hint = f"can't be a file's name ({where})", f"use letters, digits, '-' and '_', at most {MAX_ID}"
        raise BadNameError("prompt id", text, why, hint)
    return slug


def derive_id(prompt: str) -> str:
    """The id of a prompt that has none: up to five words of at most 16 letters, and 8 hex digits of its SHA256."""
    words = re.findall(r"[a-z0-9]+", prompt.lower())[:5]
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return "-".join([*(word[:16] for word in words), digest])
