"""Asking a remote source what it has, checking what it promises, and downloading into the store what isn't there."""

from __future__ import annotations

from darkroom.checkpoint.header import read_header
from darkroom.config import FetchConfig
from darkroom.errors import CheckpointError, HashError, NameError
from darkroom.hashing import check_sha256, hash_file
from darkroom.sources.access import Access
from darkroom.sources.dates import first_fetched
from darkroom.sources.downloads import Downloads, Record
from darkroom.sources.lock import LockEntry, variant_of
from darkroom.sources.partial import Partial
from darkroom.sources.patience import Patience
from darkroom.sources.progress import Progress
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.references import refuse_plain_http
from darkroom.sources.remote_files import RemoteFile, Resolved
from darkroom.sources.resolving import resolve
from darkroom.sources.transfer import Downloaded, Transfer, WrongBytes
from darkroom.sources.wanted import Places, Wanted
from darkroom.sources.web import Web


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
        raise NameError("file", path[:200], f"{source} names a file that no folder may hold", "use another source")
