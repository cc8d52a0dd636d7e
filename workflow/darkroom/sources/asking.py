"""Asking for a part of a file, and making sure that the answer is that part of that version."""

from __future__ import annotations

from dataclasses import replace

from darkroom.errors import NetworkError
from darkroom.sources.answers import check_start, version_of
from darkroom.sources.failures import Expired, Passing
from darkroom.sources.partial import Partial, Version
from darkroom.sources.pieces import Piece
from darkroom.sources.remote_files import RemoteFile
from darkroom.sources.web import Answer, Web

NO_VERSION = "the server names no version, restarting"


class StartOver(Exception):
    """All bytes so far are of no use. `answer`, if any, gives the file from its beginning, of `version`."""

    def __init__(self, why: str, answer: Answer | None, version: Version, *, is_change: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.answer = answer
        self.version = version
        self.is_change = is_change


class WrongRange(Exception):
    """The server sent another part than it was asked for."""


class Asking:
    """Asks for parts of one file. `has_ranges` once the server has sent one, unless it sent more than asked for since."""

    def __init__(
        self, source: str, file: RemoteFile, partial: Partial, web: Web, wanted: str | None, *, is_weights: bool
    ) -> None:
        self._source = source
        self._file = file
        self._partial = partial
        self._web = web
        self._wanted = wanted
        self._is_weights = is_weights
        self._signed_url: str | None = None
        self.has_ranges = self._has_ignored_one = False

    @property
    def can_resume(self) -> bool:
        """Whether anything would tell that what follows is of the same version: the server, or the hash in the end."""
        return self._partial.version.if_range is not None or self._wanted is not None

    def open(self, piece: Piece) -> Answer | None:
        """An answer that begins where `piece` does; None if the server says that the file ends there.

        Raises StartOver where it gives something else than what was begun, WrongRange where it gives another part, and
        what `Web.open` and, where a file's first bytes come, `check_start` raise.
        """
        known, is_new = self._partial.version, self._partial.ranges.count == 0
        if not is_new and not self.can_resume:
            raise StartOver(NO_VERSION, None, Version())
        headers = {"Range": f"bytes={piece.start}-{'' if piece.end is None else piece.end - 1}"}
        if known.if_range and not is_new:
            headers["If-Range"] = known.if_range
        answer = self._ask(headers)
        try:
            return self._judge(answer, piece, known, is_new)
        except BaseException as error:
            if not (isinstance(error, StartOver) and error.answer is answer):
                answer.close()
            raise

    def _ask(self, headers: dict[str, str]) -> Answer:
        """At the URL that redirects led to before, while that is good; it is signed for a time."""
        signed_url, pinned = self._signed_url, self._wanted is not None  # several threads ask
        if signed_url is not None:
            try:
                return self._web.open(
                    self._source, signed_url, access=None, headers=headers, is_signed=True, is_pinned=pinned
                )
            except Expired:
                if self._signed_url == signed_url:
                    self._signed_url = None
        file = self._file
        answer = self._web.open(self._source, file.url, access=file.access, headers=headers, is_pinned=pinned)
        self._signed_url = answer.url if answer.url != file.url else None
        return answer

    def _judge(self, answer: Answer, piece: Piece, known: Version, is_new: bool) -> Answer | None:
        found, start = version_of(answer)
        if answer.status == 416:
            self._judge_end(piece, known, found)
            answer.close()
            return None
        if answer.status == 304:
            raise Passing("the server answers 304 to a request without conditions")
        if start == 0:
            # Before what is here is given up for it: a page for people has another version and size, too.
            check_start(answer, self._source, self._file, is_weights=self._is_weights)
        if not is_new and known.differs_from(found):
            if answer.status == 206 and found.etag is not None and found.etag == known.etag:
                raise WrongRange(f"the server speaks of {found.size:,} bytes now, of {known.size:,} before")
            whole = answer if answer.status == 200 else None
            version = found if whole else Version()
            raise StartOver("file changed upstream, starting again", whole, version, is_change=True)
        if answer.status == 206:
            if start is None:
                raise WrongRange("the server does not say which bytes it sent")
            if start != piece.start:
                raise WrongRange(f"the server sent bytes from {start} on when asked from {piece.start} on")
            self.has_ranges = not self._has_ignored_one
        elif not is_new:
            self.has_ranges, self._has_ignored_one = False, True
            raise StartOver("server cannot resume, restarting", answer, found)
        if is_new:
            self._partial.adopt(found)
        elif known.size is None:
            self._partial.adopt(replace(known, size=found.size))
        return answer

    def _judge_end(self, piece: Piece, known: Version, found: Version) -> None:
        """What 416 means: there is nothing from `piece` on, because all is here, or because less is there."""
        if piece.start and found.size == piece.start and not known.differs_from(found):
            self._partial.adopt(replace(known, size=piece.start))
        elif piece.start:
            raise StartOver("the server has less than is here, restarting", None, Version())
        else:
            raise NetworkError("source", self._source, "the server has no byte of it", "check the source")
