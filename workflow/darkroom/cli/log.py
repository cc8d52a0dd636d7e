"""The log of a verb, `--log FILE`: its outcome, and what happened on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.base import worker_words
from darkroom.base.secrets import redact
from darkroom.errors import DarkroomError


def write_outcome(log: Path, text: str) -> None:
    """Write the verb's one line, unless the verb has written a fuller log itself."""
    if not (log.is_file() and log.stat().st_size):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text + "\n", encoding="utf-8")


class Events:
    """Prints what happens to stderr, secrets redacted, and keeps it in the log if there is one.

    The earlier worker's lines go to stdout: they are no errors, and stderr has one line where something fails.
    """

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self.name = ""
        """The subject of the lines on stderr, where several jobs may write at once."""

    def __call__(self, line: str) -> None:
        if line in worker_words.BUILD:
            print(line, flush=True)
        else:
            print(f"{self.name}: {redact(line)}", file=sys.stderr, flush=True)
        self.keep(line)

    def keep(self, text: str) -> None:
        """Append to the log alone."""
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(redact(text) + "\n")


@contextmanager
def log_events(log: Path | None) -> Iterator[Events]:
    """Empty the log, and end it with the error if one is raised."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", encoding="utf-8")
    events = Events(log)
    try:
        yield events
    except (DarkroomError, OSError) as error:
        events.keep(str(error))
        raise
