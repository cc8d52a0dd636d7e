"""Fetching from Civitai, the Hub or a URL: resolved, downloaded into the store if it isn't there yet, and pinned.

What is here is used without asking anybody. Else the source is asked what it has, its files are downloaded into the
store, and the destination becomes another name of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from darkroom.base.hashing import check_sha256, hash_file
from darkroom.checkpoint.header import read_header
from darkroom.config import FetchConfig
from darkroom.errors import BadNameError, CheckpointError, HashError, InputError, ModelError, OfflineError, SourceError
from darkroom.sources.access import Access
from darkroom.sources.lock import LockEntry, lock_key, read_lock, record_receipt, variant_of
from darkroom.sources.partial import Partial
from darkroom.sources.progress import Progress
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.references import CivitaiReference, HubReference, Reference, UrlReference, refuse_plain_http
from darkroom.sources.retry import Patience
from darkroom.sources.source import GetJson, RemoteFile, Resolved
from darkroom.sources.store import Downloads, Record, first_fetched, place_file, place_folder
from darkroom.sources.transfer import Downloaded, Transfer, WrongBytes
from darkroom.sources.web import Web


@dataclass(frozen=True, slots=True)
class Wanted:
    """One remote source to fetch. `sha256` is the configuration's, `kind` checkpoint, vae, lora or embedding."""

    reference: Reference
    kind: str
    sha256: str | None
    dtype: str

    @property
    def name(self) -> str:
        """What the lock file and the store call it."""
        return lock_key(self.reference, self.dtype)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the store of downloads, the lock file and the memory of days, if they are kept."""

    downloads: Path
    lock: Path | None
    dates: Path | None


def resolve(reference: Reference, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
    """What `reference` stands for; `version` is what the lock file says of one that may move.

    Raises what `resolve_civitai` and `resolve_hub` raise, SourceError (E-SOURCE) for a local path.
    """
    if isinstance(reference, CivitaiReference):
        from darkroom.sources.civitai import resolve_civitai

        return resolve_civitai(reference, kind=kind, version=version, get_json=get_json)
    if isinstance(reference, HubReference):
        from darkroom.sources.hub import resolve_hub

        return resolve_hub(reference, kind=kind, version=version, dtype=dtype)
    if isinstance(reference, UrlReference):
        name = urlsplit(reference.url).path.rpartition("/")[2] or "the file"
        return Resolved((RemoteFile(identity=reference.url, path=name, url=reference.url),))
    raise SourceError("source", reference.text, "is a local path", "nothing has to be asked about it")


class Job:
    """One fetch. It asks the network when `download` is called."""

    def __init__(
        self,
        wanted: Wanted,
        store: Downloads,
        locked: LockEntry | None,
        places: Places,
        options: FetchConfig,
        progress: Progress,
    ) -> None:
        self._wanted = wanted
        self._text = wanted.reference.text
        self._store = store
        self._locked = locked
        self._places = places
        self._options = options
        self._progress = progress
        self._patience = Patience(options.retries, progress.say)
        self._web = Web(options.stall_timeout_s, options.connections)

    @property
    def _sha256(self) -> str | None:
        """The bytes that are wanted: the configuration's word, else the lock file's."""
        if self._wanted.sha256 is not None:
            return self._wanted.sha256.lower()
        return self._locked.sha256 if self._locked else None

    def accepts(self, receipt: FetchReceipt) -> bool:
        return self._sha256 in (None, receipt.sha256)

    def download(self, before: Record | None) -> Record:
        """Ask the source, and download what isn't in the store."""
        try:
            refuse_plain_http(self._wanted.reference, self._sha256)
            version = (
                self._locked.version if self._locked and self._wanted.sha256 in (None, self._locked.sha256) else None
            )
            resolved = self._patience.attempt(
                self._text,
                lambda: resolve(
                    self._wanted.reference,
                    kind=self._wanted.kind,
                    version=version,
                    dtype=self._wanted.dtype,
                    get_json=self._get_json,
                ),
            )
            if self._wanted.reference.is_folder:
                return self._folder(resolved)
            return self._file(resolved, before)
        finally:
            self._web.close()

    def _get_json(self, url: str, access: Access | None) -> object:
        return self._web.get_json(self._text, url, access)

    def _file(self, resolved: Resolved, before: Record | None) -> Record:
        (file,) = resolved.files
        wanted = self._agreed(file.sha256)
        if before is not None and self.accepts(before.receipt) and self._is_unchanged(file, before):
            self._progress.say("unchanged")
            return before
        done = self._bring(file, wanted, is_weights=True)
        path = self._store.path(done.sha256)
        data_sha256 = done.data_sha256
        header = read_header(path)
        if data_sha256 is None:
            data_sha256 = hash_file(path, skip=header.data_offset)
        fetched = first_fetched(done.sha256, self._places.dates)
        receipt = FetchReceipt.of_file(
            self._text, header, done.sha256, data_sha256, facts=resolved.facts, fetched=fetched
        )
        return Record(receipt=receipt, etag=done.version.etag, last_modified=done.version.last_modified)

    def _is_unchanged(self, file: RemoteFile, before: Record) -> bool:
        """Whether the server says so of what is here; asked only where the source promises no hash."""
        if file.sha256 is not None or before.etag is None or not self._store.is_whole(before.receipt):
            return False

        def ask() -> bool:
            condition = {"If-None-Match": before.etag or ""}
            answer = self._web.open(self._text, file.url, access=file.access, headers=condition)
            answer.close()
            return answer.status == 304

        return self._patience.attempt(self._text, ask)

    def _folder(self, resolved: Resolved) -> Record:
        from darkroom.checkpoint.verified import content_digest

        files: dict[str, FetchedFile] = {}
        for file in resolved.files:
            _check_path(self._text, file.path)
            done = self._bring(file, file.sha256, is_weights=file.path.endswith(".safetensors"))
            files[file.path] = FetchedFile(size=done.size, sha256=done.sha256)
        files = dict(sorted(files.items()))
        digest = content_digest(files)
        self._check_bytes(digest)
        receipt = FetchReceipt.of_folder(
            self._text,
            files,
            digest,
            variant=variant_of(self._wanted.reference, self._wanted.dtype),
            facts=resolved.facts,
            fetched=first_fetched(digest, self._places.dates),
        )
        return Record(receipt=receipt)

    def _bring(self, file: RemoteFile, wanted: str | None, *, is_weights: bool) -> Downloaded:
        """One file, from the store if it is there."""
        store, progress = self._store, self._progress
        with store.partial(
            file.identity, lambda: progress.say("somebody else is fetching it, waiting")
        ) as open_partial:
            if wanted is not None and store.is_sound(wanted):
                progress.say("already here")
                return Downloaded(store.path(wanted).stat().st_size, wanted)
            partial = open_partial()
            transfer = Transfer(
                self._text,
                file,
                partial,
                self._web,
                is_weights=is_weights,
                wanted=wanted,
                connections=self._options.connections,
                stall_timeout_s=self._options.stall_timeout_s,
                patience=self._patience,
                progress=progress,
            )
            try:
                done = transfer.run()
                if is_weights:
                    self._check_header(file, partial)
            except HashError:
                partial.discard()
                raise
            except WrongBytes as error:
                partial.discard()
                self._check_bytes(error.found)
                why = f"its SHA256 is {error.found}, the source promises {wanted}"
                raise HashError(
                    "source", self._text, why, "run the same command again, or use another source"
                ) from None
            store.publish(partial, done.sha256)
            return done

    def _check_header(self, file: RemoteFile, partial: Partial) -> None:
        """Raise FormatError (E-FORMAT) that names the source if what came is a broken safetensors file."""
        try:
            read_header(partial.data)
        except CheckpointError as error:
            partial.discard()
            raise type(error)("source", self._text, f"{file.path} {error.why}", error.hint) from None

    def _agreed(self, promised: str | None) -> str | None:
        """The SHA256 to expect. Raises HashError before a byte is fetched if the source promises another one."""
        if promised is not None:
            self._check_bytes(promised.lower())
        return self._sha256 or (promised and promised.lower())

    def _check_bytes(self, found: str) -> None:
        if self._wanted.sha256 is not None:
            hint = "mend sha256 in the configuration if these are the bytes that you want"
        else:
            hint = "darkroom fetch --update NAME takes the new ones"
        check_sha256("source", self._text, found, self._sha256, hint)


def _check_path(source: str, path: str) -> None:
    """A place inside a folder, whatever the server calls it."""
    parts = path.split("/")
    if any(
        part in ("", ".", "..") or not part.isprintable() or len(part) > 200 or "\\" in part or ":" in part
        for part in parts
    ):
        raise BadNameError("file", path[:200], f"{source} names a file that no folder may hold", "use another source")


OFFLINE_VARIABLE = "DARKROOM_OFFLINE"


def fetch_remote(
    wanted: Wanted,
    dest: Path,
    *,
    places: Places,
    options: FetchConfig,
    update: bool,
    progress: Progress,
    check: Callable[[Path], object],
) -> FetchReceipt:
    """Make `dest` the file or Diffusers folder that `wanted` names, and record in the lock file which bytes it is.

    With `update` the source is asked even if everything is here, and the lock file's entry is no bound.
    Raises what `Transfer.run`, resolving and `check` raise, HashError (E-HASH) for other bytes than configuration or
    lock file name, OfflineError (E-OFFLINE) if something would have to be fetched. What was at `dest` stays then.
    """
    locked = None if update or places.lock is None else read_lock(places.lock).get(wanted.name)
    store = Downloads(places.downloads)
    text = wanted.reference.text
    with store.claim_source(wanted.name, lambda: progress.say("somebody else is fetching it, waiting")):
        job = Job(wanted, store, locked, places, options, progress)
        before = store.record(wanted.name)
        if before is not None and not update and job.accepts(before.receipt) and store.is_whole(before.receipt):
            record = before
        elif options.offline or os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
            what = "is not here, and the network isn't to be used"
            raise OfflineError("source", text, what, "run it once without --offline, or copy it here and give its path")
        else:
            record = job.download(before if update else None)
        receipt = record.receipt
        store.write_record(wanted.name, record)
        try:
            if receipt.files is None:
                place_file(store.path(receipt.sha256), dest, check)
            else:
                place_folder({path: store.path(file.sha256) for path, file in receipt.files.items()}, dest, text)
        except (CheckpointError, ModelError, InputError):
            store.forget_record(wanted.name)  # it isn't what it should be: the next run asks what is there by then
            raise
        if places.lock is not None:
            record_receipt(places.lock, wanted.name, receipt)
    return receipt
