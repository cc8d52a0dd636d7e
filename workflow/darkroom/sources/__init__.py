"""Sources: where a checkpoint comes from, and bringing it to its place with a receipt of its identity."""

from __future__ import annotations

import re
from pathlib import Path

from darkroom.errors import SourceError
from darkroom.sources.identity import source_identity
from darkroom.sources.receipt import FetchReceipt

__all__ = ["FetchReceipt", "fetch", "is_local", "source_identity"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_local(source: str) -> bool:
    """True for a path, False for anything with a scheme such as `https:` or `civitai:`."""
    return _SCHEME.match(source) is None


def fetch(source: str, dest: Path | str, receipt: Path | str, *, sha256: str | None = None) -> FetchReceipt:
    """Bring the checkpoint `source` to `dest` and write its receipt.

    Raises SourceError (E-SOURCE), PickleError, NotWeightsError, FormatError, HashError (E-HASH) if the bytes are not
    those of `sha256`, and DiskError. What stood at `dest` before stays if anything fails.
    """
    if not source.strip():
        raise SourceError("source", source, "is empty", "give the path of a .safetensors file")
    if not is_local(source):
        raise SourceError(
            "source", _without_secrets(source), "only local files can be fetched", "download it, then give its path"
        )
    # Here, since planning a workflow imports this package and fetches nothing.
    from darkroom.sources.local import fetch_local

    found = fetch_local(source, Path(dest), sha256=sha256)
    found.write(receipt)
    return found


def _without_secrets(source: str) -> str:
    """A URL without user, password, query and fragment, any of which may carry a token."""
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", source, maxsplit=1)[0])
