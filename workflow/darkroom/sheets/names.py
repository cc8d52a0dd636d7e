"""Names of sheets and ids of prompts, which become names of folders and files on every file system.

An id that isn't given is made of the prompt's first words and a hash of the prompt, so that moving a prompt within its
sheet renders nothing again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.base.names import NAME_PATTERN, is_reserved
from darkroom.base.validation import Mistakes
from darkroom.errors import BadNameError

MAX_ID = 80
_TAKEN = ("index.html", "manifest.jsonl", "thumbnails")
"""What Darkroom itself writes to results/."""


def name_sheets(paths: list[str], mistakes: Mistakes) -> dict[str, Path]:
    """The sheets' paths by name, which is a file's name without its suffix.

    A name that can't be a folder's, and one of two that differ in case only, is an error (E-NAME) in `mistakes`.
    """
    sheets: dict[str, Path] = {}
    by_key: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        key = name.casefold()
        if key in by_key:
            why = "is listed twice" if path == by_key[key] else f"has the same name as {by_key[key]}"
            hint = "list it once" if path == by_key[key] else "rename one of the two files"
            mistakes.add(BadNameError("sheet", path, why, hint))
        elif reason := _why_not(name):
            why, hint = f"its pictures can't be in results/{name}/: {reason[0]}", f"rename the file; {reason[1]}"
            mistakes.add(BadNameError("sheet", path, why, hint))
        else:
            by_key[key] = path
            sheets[name] = Path(path)
    return sheets


def _why_not(name: str) -> tuple[str, str] | None:
    """The reason why no sheet can be called that, and what to do."""
    if not NAME_PATTERN.fullmatch(name) or name.endswith("."):
        return "that is no folder's name on every file system", "use letters, digits, '-' and '_'"
    if is_reserved(name):
        return f"Windows keeps the name {name.split('.')[0]} for a device", f"{name.split('.')[0]}-sheet would do"
    if name.casefold() in _TAKEN:
        return "Darkroom writes a file or folder of that name", f"{name.split('.')[0]}-sheet would do"
    return None


def make_id(text: object) -> str:
    """The file name of a given id: lower case, spaces as '-'. Raises BadNameError (E-NAME) if it can't be one."""
    slug = re.sub(r"\s+", "-", str(text).strip()).lower()
    if is_reserved(slug):
        raise BadNameError(
            "prompt id",
            text,
            "can't be a file's name: Windows keeps it for a device",
            f"{slug.split('.')[0]}-1 would do",
        )
    if len(slug) > MAX_ID:
        raise BadNameError("prompt id", text, f"has {len(slug)} characters", f"use at most {MAX_ID}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", slug) or ".." in slug or slug.endswith("."):
        raise BadNameError("prompt id", text, "can't be a file's name", "use letters, digits, '-' and '_'")
    return slug


def derive_id(prompt: str, options: Mapping[str, Any] | None = None) -> str:
    """The id of a prompt that has none: up to five words of at most 16 letters, and 8 hex digits of its SHA256.

    `options` are the settings on the prompt's line, which are hashed too.
    """
    words = re.findall(r"[a-z0-9]+", prompt.lower())[:5]
    whole = prompt + (json.dumps(options, sort_keys=True) if options else "")
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return "-".join([*(word[:16] for word in words), digest])
