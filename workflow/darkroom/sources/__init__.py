"""Sources: where checkpoints and VAEs come from, and bringing them to their place with a receipt of their identity."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from darkroom.errors import SourceError
from darkroom.sources.identity import source_identity
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.state import SourceState, look_at

__all__ = ["FetchReceipt", "SourceState", "fetch", "is_local", "look_at", "source_identity"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_local(source: str) -> bool:
    """True for a path, False for anything with a scheme such as `https:` or `civitai:`."""
    return _SCHEME.match(source) is None


def fetch(
    source: str, dest: Path | str, receipt: Path | str, *, sha256: str | None = None, kind: str = "checkpoint"
) -> FetchReceipt:
    """Bring the safetensors file or Diffusers folder `source` to `dest` and write its receipt.

    `kind` is `checkpoint`, `vae`, `lora` or `embedding`; a file that can't be that is refused: raises LoraError
    (E-LORA) or EmbeddingError (E-EMBEDDING). Also raises SourceError (E-SOURCE), the CheckpointErrors, HashError (E-HASH) if the content is not that of `sha256`,
    ConfigError (E-CONFIG) for a broken sidecar, DiskError; for a folder ModelError, IndexFileError and NameError too.
    What stood at `dest` before stays if anything fails.
    """
    if not source.strip():
        raise SourceError("source", source, "is empty", "give the path of a .safetensors file")
    if not is_local(source):
        raise SourceError(
            "source", _without_secrets(source), "only local files can be fetched", "download it, then give its path"
        )
    # Here, since planning a workflow imports this package and fetches nothing.
    if Path(source).expanduser().is_dir():
        from darkroom.sources.folder import fetch_folder

        found = fetch_folder(source, Path(dest), sha256=sha256)
    else:
        from darkroom.sources.local import fetch_local

        found = fetch_local(source, Path(dest), sha256=sha256, check=_check_of(kind, source))
    found.write(receipt)
    return found


def _check_of(kind: str, source: str) -> Callable[[Path], object]:
    """What a file of that kind must pass, told from its header; conversion looks at checkpoints and VAEs by itself."""
    name = Path(source).name
    if kind == "lora":
        from darkroom.loras import read_lora

        return lambda path: read_lora(path, name)
    if kind == "embedding":
        from darkroom.prompting.embeddings import check_embedding_file

        return lambda path: check_embedding_file(path, name)
    return lambda path: None


def _without_secrets(source: str) -> str:
    """A URL without user, password, query and fragment, any of which may carry a token."""
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", source, maxsplit=1)[0])
