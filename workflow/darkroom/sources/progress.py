"""Progress of a download for people: events as lines, and progress as a bar on a terminal or a line every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from darkroom.base.text import format_bytes, format_duration, format_percent, format_progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY_S = 5.0
_RATE_OVER_S = 10.0


class Progress:
    """`say` gets each line. With `bar_title` there is a bar on stderr instead of lines of progress."""

    def __init__(self, say: Callable[[str], None], *, bar_title: str | None = None) -> None:
        self._say = say
        self._bar_title = bar_title
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._total: int | None = None
        self._done = 0
        self._said = 0.0
        self._marks: deque[tuple[float, int]] = deque()

    def say(self, text: str) -> None:
        """Report an event."""
        with self._lock:
            self._say(text)

    def begin(self, total: int | None, done: int) -> None:
        """Start a file of `total` bytes, `done` of them are there already; `total` is None if unknown."""
        with self._lock:
            self._total, self._done, self._said = total, done, time.monotonic()
            self._marks = deque([(self._said, done)])
            if self._bar_title is not None:
                self._show_bar(self._bar_title, total, done)

    def advance(self, count: int) -> None:
        """Count further bytes."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done)
            elif now - self._said >= LINE_EVERY_S:
                self._said = now
                self._marks.append((now, self._done))
                while now - self._marks[1][0] > _RATE_OVER_S:
                    self._marks.popleft()
                self._say(self._line())

    def end(self) -> None:
        """End a file, complete or not."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _line(self) -> str:
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        rate = (done - before) / (now - then)
        if self._total is None:
            return f"{format_bytes(done)}, {format_bytes(rate)}/s"
        left = f", {format_duration((self._total - done) / rate)} left" if rate else ""
        return (
            f"{format_percent(done, self._total)}, {format_progress(done, self._total)}, {format_bytes(rate)}/s{left}"
        )

    def _show_bar(self, title: str, total: int | None, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(file=sys.stderr), transient=True)
            self._task = self._bar.add_task(title, total=total, completed=done)
            self._bar.start()
        elif self._task is not None:
            self._bar.reset(self._task, total=total, completed=done)
