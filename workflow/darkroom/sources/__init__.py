"""Sources: where checkpoints and VAEs come from, and bringing them to their place with a receipt of their identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import SourceError
from darkroom.sources.inspect import SourceState, look_at, source_identity
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.references import LocalReference, parse_reference

if TYPE_CHECKING:
    from darkroom.config import FetchConfig
    from darkroom.sources.progress import Progress

__all__ = ["FetchReceipt", "SourceState", "fetch", "look_at", "parse_reference", "source_identity"]


def fetch(
    source: str,
    dest: Path | str,
    receipt: Path | str | None = None,
    *,
    sha256: str | None = None,
    kind: str = "checkpoint",
    dtype: str = "fp16",
    downloads: Path | None = None,
    lock: Path | None = None,
    dates: Path | None = None,
    update: bool = False,
    options: FetchConfig | None = None,
    report: Callable[[str], None] | None = None,
    has_bar: bool = False,
) -> FetchReceipt:
    """Bring the safetensors file or Diffusers folder `source` to `dest` and write its receipt, if one is asked for.

    `kind` is `checkpoint`, `vae`, `lora` or `embedding`; a file that can't be that is refused. Of a remote source,
    `downloads` is where downloads are kept (else a folder beside `dest`, gone once all is there), `lock` the lock file,
    `dtype` which weights of a folder are preferred; `update` asks again for what is here already. `dates` remembers
    days. `report` gets lines for people; with `has_bar` progress is a bar on stderr.

    Raises SourceError (E-SOURCE), the CheckpointErrors, HashError (E-HASH) if the content is not that of `sha256`,
    LoraError, EmbeddingError, ConfigError (E-CONFIG) for a broken sidecar or lock file, DiskError (E-DISK); for a folder
    ModelError, IndexFileError and BadNameError too; for a remote source AuthError (E-AUTH) and the FetchErrors.
    What stood at `dest` before stays if anything fails.
    """
    if not source.strip():
        raise SourceError("source", source, "is empty", "give a path, civitai:…, hf:… or https://…")
    dest, reference = Path(dest), parse_reference(source)
    # Imported here, since planning a workflow imports this package and fetches nothing.
    if not isinstance(reference, LocalReference):
        from darkroom.config import FetchConfig
        from darkroom.sources.progress import Progress
        from darkroom.sources.remote import Places, Wanted, fetch_remote

        progress = Progress(report or (lambda _: None), bar_title=dest.name if has_bar else None)
        with _downloads_folder(downloads, dest, progress) as folder:
            found = fetch_remote(
                Wanted(reference, kind, sha256, dtype),
                dest,
                places=Places(folder, lock, dates),
                options=options or FetchConfig(),
                update=update,
                progress=progress,
                check=_check_of(kind, reference.text),
            )
    elif reference.is_folder:
        from darkroom.sources.local import fetch_folder

        found = fetch_folder(source, dest, sha256=sha256, dates=dates)
    else:
        from darkroom.sources.local import fetch_local

        found = fetch_local(source, dest, sha256=sha256, check=_check_of(kind, source), dates=dates)
    if receipt is not None:
        found.write(receipt)
    return found


@contextmanager
def _downloads_folder(given: Path | None, dest: Path, progress: Progress) -> Iterator[Path]:
    """The folder for downloads: one of its own for `dest` stays only while there is something to go on with."""
    if given is not None:
        yield given
        return
    from darkroom.base.claims import claim

    own, done = dest.with_name(f".{dest.name}.download"), False
    # Claimed as a whole, so that nobody deletes it while somebody else uses it.
    with claim(own, lambda: progress.say("somebody else is fetching it, waiting")):
        try:
            yield own
            done = True
        finally:
            if done or not any(own.glob("*.part")):
                shutil.rmtree(own, ignore_errors=True)


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
