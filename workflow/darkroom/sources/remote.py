"""Fetching a remote source: resolved, downloaded into the store where files are missing, placed and pinned.

What the store has is used without asking anybody. Otherwise the source is asked which files it has, missing ones are
downloaded into the store, and the destination becomes another name of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.base.claims import claim
from darkroom.base.hashing import check_sha256, hash_file
from darkroom.base.text import shorten
from darkroom.base.worker_words import DOWNLOADED, DOWNLOADING
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.verified import content_digest
from darkroom.config import FetchConfig
from darkroom.errors import BadNameError, CheckpointError, HashError, InputError, ModelError, OfflineError
from darkroom.sources.access import Access
from darkroom.sources.lock import LockEntry, lock_key, read_lock, record_receipt, variant_of
from darkroom.sources.partial import Partial
from darkroom.sources.progress import Progress
from darkroom.sources.range_request import DownloadTask
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.retry import RetryPolicy
from darkroom.sources.source import FetchRequest, RemoteFile, ResolvableSource, Resolved
from darkroom.sources.store import Record, Store, first_fetched, place_file, place_folder
from darkroom.sources.transfer import Downloaded, Transfer, WrongBytes
from darkroom.sources.web import HttpClient

OFFLINE_VARIABLE = "DARKROOM_OFFLINE"
_WAITING = "another process is fetching it, waiting"
_LONGEST_NAME = 200


def fetch_remote(source: ResolvableSource, request: FetchRequest) -> FetchReceipt:
    """Make `request.dest` the file or Diffusers folder that `source` names, and record its bytes in the lock file.

    With `request.update` the source is asked even if everything is here, and the lock file's entry doesn't bind.
    Raises what `Transfer.run`, `source.resolve` and `request.check` raise, HashError (E-HASH) for other bytes than
    configuration or lock file name, OfflineError (E-OFFLINE) if something would have to be fetched and must not be.
    What was at `request.dest` stays then.
    """
    progress = Progress(request.report, bar_title=request.dest.name if request.has_bar else None)
    options = request.options or FetchConfig()
    with _downloads_folder(request, progress) as folder:
        store, name = Store(folder), lock_key(source, request.dtype)
        locked = None if request.update or request.lock is None else read_lock(request.lock).get(name)
        with store.claim_source(name, lambda: progress.say(_WAITING)):
            download = Download(source, request, store, locked, options, progress)
            before = store.record(name)
            is_here = before is not None and download.accepts(before.receipt) and store.is_whole(before.receipt)
            if before is not None and is_here and not request.update:
                record = before
            elif options.offline or os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
                why = "is not here, and the network isn't to be used"
                hint = "run it once without --offline, or copy it here and give its path"
                raise OfflineError("source", source.text, why, hint)
            else:
                record = download.run(before if request.update else None)
            store.write_record(name, record)
            try:
                _place(source, record.receipt, store, request)
            except (CheckpointError, ModelError, InputError):
                store.forget_record(name)  # not what it should be: the next run asks the source again
                raise
            if request.lock is not None:
                record_receipt(request.lock, name, record.receipt)
    return record.receipt


class Download:
    """One source's files, brought into the store. The network is used by `run` alone."""

    def __init__(
        self,
        source: ResolvableSource,
        request: FetchRequest,
        store: Store,
        locked: LockEntry | None,
        options: FetchConfig,
        progress: Progress,
    ) -> None:
        self._source = source
        self._text = source.text
        self._request = request
        self._store = store
        self._locked = locked
        self._options = options
        self._progress = progress
        self._retry = RetryPolicy(options.retries, progress.say)
        self._is_downloading = False  # of a checkpoint
        self._client = HttpClient(options.stall_timeout_s, options.connections)

    def accepts(self, receipt: FetchReceipt) -> bool:
        """True if the receipt's bytes are the wanted ones, as far as these are known."""
        return self._sha256 in (None, receipt.sha256)

    def run(self, before: Record | None) -> Record:
        """Ask the source, and download the files that the store lacks; `before` is kept if nothing has changed."""
        request, locked = self._request, self._locked
        try:
            self._source.refuse_unencrypted(self._sha256)
            version = locked.version if locked and request.sha256 in (None, locked.sha256) else None
            resolved = self._retry.attempt(
                self._text,
                lambda: self._source.resolve(
                    kind=request.kind, version=version, dtype=request.dtype, get_json=self._get_json
                ),
            )
            record = self._folder(resolved) if self._source.is_folder else self._file(resolved, before)
            if self._is_downloading:
                self._progress.say(DOWNLOADED)
            return record
        finally:
            self._client.close()

    @property
    def _sha256(self) -> str | None:
        """The hash of the wanted bytes: the configuration's, else the lock file's."""
        if self._request.sha256 is not None:
            return self._request.sha256.lower()
        return self._locked.sha256 if self._locked else None

    def _get_json(self, url: str, access: Access | None) -> object:
        return self._client.get_json(self._text, url, access)

    def _file(self, resolved: Resolved, before: Record | None) -> Record:
        (file,) = resolved.files
        wanted = self._agreed(file.sha256)
        if before is not None and self.accepts(before.receipt) and self._is_unchanged(file, before):
            self._progress.say("unchanged")
            return before
        done = self._fetch(file, wanted, is_weights=True)
        path = self._store.path(done.sha256)
        header = read_header(path)
        data_sha256 = done.data_sha256 or hash_file(path, skip=header.data_offset)
        fetched = first_fetched(done.sha256, self._request.dates)
        receipt = FetchReceipt.of_file(
            self._text, header, done.sha256, data_sha256, facts=resolved.facts, fetched=fetched
        )
        return Record(receipt=receipt, etag=done.version.etag, last_modified=done.version.last_modified)

    def _is_unchanged(self, file: RemoteFile, before: Record) -> bool:
        """True if the server answers that its file hasn't changed; asked only where the source promises no hash."""
        if file.sha256 is not None or before.etag is None or not self._store.is_whole(before.receipt):
            return False

        def ask() -> bool:
            condition = {"If-None-Match": before.etag or ""}
            response = self._client.open(self._text, file.url, access=file.access, headers=condition)
            response.close()
            return response.status == 304

        return self._retry.attempt(self._text, ask)

    def _folder(self, resolved: Resolved) -> Record:
        files: dict[str, FetchedFile] = {}
        for file in resolved.files:
            _check_path(self._text, file.path)
            done = self._fetch(file, file.sha256, is_weights=file.path.endswith(".safetensors"))
            files[file.path] = FetchedFile(size=done.size, sha256=done.sha256)
        files = dict(sorted(files.items()))
        digest = content_digest(files)
        self._check_bytes(digest)
        receipt = FetchReceipt.of_folder(
            self._text,
            files,
            digest,
            variant=variant_of(self._source, self._request.dtype),
            facts=resolved.facts,
            fetched=first_fetched(digest, self._request.dates),
        )
        return Record(receipt=receipt)

    def _fetch(self, file: RemoteFile, wanted: str | None, *, is_weights: bool) -> Downloaded:
        """Have one file in the store: the one with the hash `wanted` if it is there, else a download."""
        store = self._store
        with store.partial(file.identity, lambda: self._progress.say(_WAITING)) as open_partial:
            if wanted is not None and store.is_sound(wanted):
                self._progress.say("already here")
                return Downloaded(store.path(wanted).stat().st_size, wanted)
            partial = open_partial()
            if self._request.kind == "checkpoint" and not self._is_downloading:
                self._is_downloading = True
                self._progress.say(DOWNLOADING)
            try:
                done = Transfer(self._task(file, partial, wanted, is_weights=is_weights)).run()
                if is_weights:
                    self._check_header(file, partial)
            except HashError:
                partial.discard()
                raise
            except WrongBytes as error:
                partial.discard()
                self._check_bytes(error.found)
                why = f"its SHA256 is {error.found}, the source promises {wanted}"
                hint = "run the same command again, or use another source"
                raise HashError("source", self._text, why, hint) from None
            store.publish(partial, done.sha256)
            return done

    def _task(self, file: RemoteFile, partial: Partial, wanted: str | None, *, is_weights: bool) -> DownloadTask:
        return DownloadTask(
            source=self._text,
            file=file,
            partial=partial,
            client=self._client,
            retry=self._retry,
            progress=self._progress,
            wanted=wanted,
            is_weights=is_weights,
            connections=self._options.connections,
            stall_timeout_s=self._options.stall_timeout_s,
        )

    def _check_header(self, file: RemoteFile, partial: Partial) -> None:
        """Raise FormatError (E-FORMAT) that names the source if the download is a broken safetensors file."""
        try:
            read_header(partial.data)
        except CheckpointError as error:
            partial.discard()
            raise type(error)("source", self._text, f"{file.path} {error.why}", error.hint) from None

    def _agreed(self, promised: str | None) -> str | None:
        """The SHA256 to expect. Raises HashError (E-HASH) before a byte is fetched if the source promises another one."""
        if promised is not None:
            self._check_bytes(promised.lower())
        return self._sha256 or (promised and promised.lower())

    def _check_bytes(self, found: str) -> None:
        if self._request.sha256 is not None:
            hint = "fix sha256 in the configuration if these are the bytes that you want"
        else:
            hint = "darkroom fetch --update NAME takes the new ones"
        check_sha256("source", self._text, found, self._sha256, hint)


@contextmanager
def _downloads_folder(request: FetchRequest, progress: Progress) -> Iterator[Path]:
    """The folder for downloads: the given one, or one beside the destination that stays only if it can be resumed."""
    if request.downloads is not None:
        yield request.downloads
        return
    own, is_done = request.dest.with_name(f".{request.dest.name}.download"), False
    # Claimed as a whole, so that no process deletes it while another one uses it.
    with claim(own, lambda: progress.say(_WAITING)):
        try:
            yield own
            is_done = True
        finally:
            if is_done or not any(own.glob("*.part")):
                shutil.rmtree(own, ignore_errors=True)


def _place(source: ResolvableSource, receipt: FetchReceipt, store: Store, request: FetchRequest) -> None:
    if receipt.files is None:
        place_file(store.path(receipt.sha256), request.dest, request.check)
    else:
        blobs = {path: store.path(file.sha256) for path, file in receipt.files.items()}
        place_folder(blobs, request.dest, source.text)


def _check_path(source: str, path: str) -> None:
    """Raise BadNameError (E-NAME) for a path that could lead out of a folder or couldn't be in one."""
    if any(
        part in ("", ".", "..") or not part.isprintable() or len(part) > _LONGEST_NAME or "\\" in part or ":" in part
        for part in path.split("/")
    ):
        why = f"{source} names a file that no folder may hold"
        raise BadNameError("file", shorten(path, _LONGEST_NAME), why, "use another source")
