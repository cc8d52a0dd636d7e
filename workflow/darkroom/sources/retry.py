"""How often and after which time something that failed is tried again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from darkroom.errors import NetworkError, StallError
from darkroom.sources.web import Passing

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
"""A server that wants to be left alone for longer is left alone: the command ends and says so."""
_T = TypeVar("_T")


class Patience:
    """Waits between attempts: exponential back-off with jitter, or what the server asks for. Shared by several threads.

    `retries` is how many attempts in a row may fail without having brought anything.
    """

    def __init__(self, retries: int, say: Callable[[str], None]) -> None:
        self.retries = retries
        self._say = say
        self._not_before = 0.0
        self.stop = threading.Event()

    def attempt(self, source: str, work: Callable[[], _T]) -> _T:
        """The outcome of `work`, tried again while it raises Passing. Raises NetworkError or StallError in the end."""
        failures = 0
        while True:
            self.wait_for_turn()
            try:
                return work()
            except Passing as passing:
                failures += 1
                self.after(source, passing, failures)

    def after(self, source: str, passing: Passing, failures: int) -> None:
        """Wait after the `failures`th failure in a row. Raises NetworkError (E-NETWORK) or StallError (E-STALL) at the end."""
        asked = passing.retry_after_s
        if failures > self.retries:
            _give_up(source, passing, failures)
        if asked is not None and asked > LONGEST_RETRY_AFTER_S:
            why = f"{passing.why}, and asks not to come again for {asked:.0f} s"
            raise NetworkError("source", source, why, "run the same command again then; what is there is kept")
        backoff = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)
        # Never earlier than asked; a little later, so that several who were told the same don't come at once.
        wait = backoff if asked is None else asked + random.uniform(0, 0.1 * asked + 0.5)
        if passing.is_rate_limit:
            self._not_before = max(self._not_before, time.monotonic() + wait)
            self._say(f"rate limited, waiting {wait:.0f} s ({failures}/{self.retries})")
        else:
            self._say(f"retry {failures}/{self.retries} in {wait:.1f} s: {passing.why}")
        self.stop.wait(wait)

    def wait_for_turn(self) -> None:
        """Wait while a server has told anybody here to wait."""
        self.stop.wait(max(0.0, self._not_before - time.monotonic()))


def _give_up(source: str, passing: Passing, failures: int) -> NoReturn:
    hint = "run the same command again; what is there is kept"
    times = f"{failures} times" if failures > 1 else "once"
    if passing.is_stall:
        raise StallError("source", source, f"{passing.why}, {times}", hint)
    raise NetworkError("source", source, f"{passing.why}, {times}", hint)
