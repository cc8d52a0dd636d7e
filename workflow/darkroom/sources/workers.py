"""Bringing the pieces of a file over one connection, or over several at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from darkroom.base.text import format_percent
from darkroom.errors import DarkroomError, NetworkError, StallError
from darkroom.sources.partial import Partial, Piece
from darkroom.sources.progress import Progress
from darkroom.sources.range_request import RangeRequests, StartOver
from darkroom.sources.retry import RetryPolicy, TransientError
from darkroom.sources.web import Response

READ_BYTES = 2**18
_SLOW_BYTES = 2**10
_PROGRESS_BYTES = 2**16
_JOIN_S = 5.0


class Workers:
    """Take pieces one after another. The first error ends all of them, but for one: where several are at work, one that
    the server goes on refusing leaves its piece to the others."""

    def __init__(
        self,
        source: str,
        requests: RangeRequests,
        partial: Partial,
        *,
        stall_timeout_s: float,
        retry: RetryPolicy,
        progress: Progress,
    ) -> None:
        self._source = source
        self._requests = requests
        self._partial = partial
        self._stall_timeout_s = stall_timeout_s
        self._retry = retry
        self._progress = progress
        self._pieces: deque[Piece] = deque()
        self._responses: set[Response] = set()
        self._error: BaseException | None = None
        self._has_failed = False
        self._count = 1

    def bring(self, pieces: Iterable[Piece], response: Response, connections: int) -> None:
        """Bring all pieces; `response` begins where the first one does.

        Raises StartOver, WrongRange, what `HttpClient.open` and `RetryPolicy.after` raise, OSError.
        """
        self._pieces = deque(pieces)
        first: Response | None = response
        if (count := min(connections, len(self._pieces))) > 1:
            self._work_in_threads(first, count)
            first = None
        self._count = 1
        self._work(first)

    def _work_in_threads(self, response: Response | None, count: int) -> None:
        self._count = count
        threads = [
            threading.Thread(target=self._work_or_note, args=(response if number == 0 else None,), daemon=True)
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except BaseException:
            self._stop_others()
            raise
        finally:
            for thread in threads:
                thread.join(_JOIN_S)
            self._retry.stop.clear()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work_or_note(self, response: Response | None) -> None:
        try:
            self._work(response)
        except BaseException as error:
            with self._partial.changed:
                if self._error is None:
                    self._error = error
                elif isinstance(error, StartOver) and error.response is not None:
                    error.response.close()
            self._stop_others()

    def _stop_others(self) -> None:
        """End the threads' waiting and reading."""
        with self._partial.changed:
            self._retry.stop.set()
            self._pieces.clear()
            responses = list(self._responses)
        for response in responses:
            response.stop()

    def _work(self, response: Response | None) -> None:
        """Bring pieces until there are none left."""
        while True:
            try:
                piece = self._pieces.popleft()
            except IndexError:
                if response is not None:
                    response.close()
                return
            try:
                self._bring_piece(piece, response)
            except (NetworkError, StallError) as error:
                if not self._leave(piece, error):
                    raise
                return
            response = None

    def _leave(self, piece: Piece, error: DarkroomError) -> bool:
        """Leave a piece to the other workers, if there are any."""
        with self._partial.changed:
            if self._count == 1:
                return False
            self._count -= 1
            self._pieces.appendleft(piece)
        self._progress.say(f"a connection less: {error.why}")
        return True

    def _bring_piece(self, piece: Piece, response: Response | None) -> None:
        failures, brought = 0, piece.start
        while not piece.is_done:
            try:
                if response is None:
                    response = self._requests.open(piece)
                    if response is None:
                        return
                    self._tell_resumed()
                self._read(response, piece)
            except TransientError as passing:
                if self._retry.stop.is_set():
                    return
                self._has_failed = True
                failures = 1 if piece.start - brought >= _PROGRESS_BYTES else failures + 1
                brought = piece.start
                self._retry.wait_after(self._source, passing, failures)
                self._retry.wait_for_turn()
            finally:
                if response is not None:
                    with self._partial.changed:
                        self._responses.discard(response)
                    response.close()
                response = None
            if self._retry.stop.is_set():
                return

    def _tell_resumed(self) -> None:
        size = self._partial.version.size
        if self._has_failed and size:
            self._has_failed = False
            self._progress.say(f"resumed at {format_percent(self._partial.ranges.count, size)}")

    def _read(self, response: Response, piece: Piece) -> None:
        """Write what comes until the piece is done."""
        with self._partial.changed:
            self._responses.add(response)
        since, came = time.monotonic(), 0
        while not piece.is_done and not self._retry.stop.is_set():
            data = response.read(READ_BYTES if piece.end is None else min(READ_BYTES, piece.end - piece.start))
            if not data:
                if piece.end is not None:
                    raise TransientError("the connection was cut")
                piece.end = piece.start
                self._partial.set_size(piece.end)
                return
            self._partial.write(piece.start, data)
            self._progress.advance(len(data))
            piece.start += len(data)
            came += len(data)
            if (now := time.monotonic()) - since > self._stall_timeout_s:
                if came < _SLOW_BYTES:
                    raise TransientError(f"{came} bytes came in {now - since:.0f} s", is_stall=True)
                since, came = now, 0
