"""SHA256 of files, in large blocks; and the short forms of it that the field uses as model hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from darkroom.errors import HashError

BLOCK_BYTES = 4 * 2**20


def hash_file(path: Path | str, *, skip: int = 0) -> str:
    """The SHA256 (lower-case hex) of a file's bytes from offset `skip` on. Raises OSError."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with Path(path).open("rb", buffering=0) as file:
        file.seek(skip)
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def check_sha256(what: str, value: object, found: str, promised: str | None, hint: str) -> None:
    """Raise HashError (E-HASH) if `found` is not the SHA256 `promised` for `value`, in upper or lower case, if any is."""
    if promised is not None and found != promised.lower():
        raise HashError(what, value, f"its SHA256 is {found}, expected {promised.lower()}", hint)


def autov2(sha256: str) -> str:
    """Civitai's AutoV2, which A1111 writes as the model hash: the first 10 hex digits of the file's SHA256."""
    return sha256[:10]


def autov3(data_sha256: str) -> str:
    """Civitai's AutoV3: the first 12 hex digits of the SHA256 of a safetensors file's data, its header left out."""
    return data_sha256[:12]
