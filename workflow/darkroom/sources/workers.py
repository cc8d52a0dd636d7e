"""Downloading the pieces of a file over one connection, or over several at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from darkroom.base.text import format_percent
from darkroom.errors import DarkroomError, NetworkError, StallError
from darkroom.sources.partial import Piece
from darkroom.sources.range_request import DownloadTask, RangeRequests, StartOver
from darkroom.sources.retry import TransientError
from darkroom.sources.web import Response

READ_BYTES = 2**18
_SLOW_BYTES = 2**10
_PROGRESS_BYTES = 2**16
_JOIN_S = 5.0


class Workers:
    """Connections that take pieces one after another.

    The first error ends all of them, with one exception: a connection that the server keeps refusing leaves its piece to
    the others, if there are any.
    """

    def __init__(self, task: DownloadTask, requests: RangeRequests) -> None:
        self._task = task
        self._requests = requests
        self._pieces: deque[Piece] = deque()
        self._responses: set[Response] = set()
        self._error: BaseException | None = None
        self._has_failed = False
        self._count = 1

    def download(self, pieces: Iterable[Piece], response: Response, connections: int) -> None:
        """Download all pieces; `response` begins where the first one does.

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
            self._task.retry.stop.clear()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work_or_note(self, response: Response | None) -> None:
        try:
            self._work(response)
        except BaseException as error:
            with self._task.partial.changed:
                if self._error is None:
                    self._error = error
                elif isinstance(error, StartOver) and error.response is not None:
                    error.response.close()
            self._stop_others()

    def _stop_others(self) -> None:
        """Make all threads stop waiting and reading."""
        with self._task.partial.changed:
            self._task.retry.stop.set()
            self._pieces.clear()
            responses = list(self._responses)
        for response in responses:
            response.stop()

    def _work(self, response: Response | None) -> None:
        """Download pieces until there are none left."""
        while True:
            try:
                piece = self._pieces.popleft()
            except IndexError:
                if response is not None:
                    response.close()
                return
            try:
                self._download_piece(piece, response)
            except (NetworkError, StallError) as error:
                if not self._give_back(piece, error):
                    raise
                return
            response = None

    def _give_back(self, piece: Piece, error: DarkroomError) -> bool:
        """Give a piece back for the other connections; False if there are none."""
        with self._task.partial.changed:
            if self._count == 1:
                return False
            self._count -= 1
            self._pieces.appendleft(piece)
        self._task.progress.say(f"one connection less: {error.why}")
        return True

    def _download_piece(self, piece: Piece, response: Response | None) -> None:
        failures, last_start = 0, piece.start
        while not piece.is_done:
            try:
                if response is None:
                    response = self._requests.open(piece)
                    if response is None:
                        return
                    self._report_resumed()
                self._read(response, piece)
            except TransientError as failure:
                if self._task.retry.stop.is_set():
                    return
                self._has_failed = True
                failures = 1 if piece.start - last_start >= _PROGRESS_BYTES else failures + 1
                last_start = piece.start
                self._task.retry.wait_after(self._task.source, failure, failures)
                self._task.retry.wait_for_turn()
            finally:
                if response is not None:
                    with self._task.partial.changed:
                        self._responses.discard(response)
                    response.close()
                response = None
            if self._task.retry.stop.is_set():
                return

    def _report_resumed(self) -> None:
        size = self._task.partial.version.size
        if self._has_failed and size:
            self._has_failed = False
            self._task.progress.say(f"resumed at {format_percent(self._task.partial.ranges.count, size)}")

    def _read(self, response: Response, piece: Piece) -> None:
        """Write the response's bytes until the piece is done."""
        with self._task.partial.changed:
            self._responses.add(response)
        since, received = time.monotonic(), 0
        while not piece.is_done and not self._task.retry.stop.is_set():
            data = response.read(READ_BYTES if piece.end is None else min(READ_BYTES, piece.end - piece.start))
            if not data:
                if piece.end is not None:
                    raise TransientError("the connection was cut")
                piece.end = piece.start
                self._task.partial.set_size(piece.end)
                return
            self._task.partial.write(piece.start, data)
            self._task.progress.advance(len(data))
            piece.start += len(data)
            received += len(data)
            if (now := time.monotonic()) - since > self._task.stall_timeout_s:
                if received < _SLOW_BYTES:
                    raise TransientError(f"{received} bytes came in {now - since:.0f} s", is_stall=True)
                since, received = now, 0
