"""How often and after which time a failed request is tried again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from darkroom.errors import NetworkError, StallError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
"""If a server asks for a longer wait, the command ends and says so."""
_T = TypeVar("_T")


class TransientError(Exception):
    """A failure that may pass: `why` for people, `retry_after_s` if the server says when to try again.

    `is_stall`: the server stopped sending; `is_rate_limit`: it answered 429.
    """

    def __init__(
        self, why: str, *, retry_after_s: float | None = None, is_stall: bool = False, is_rate_limit: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s
        self.is_stall = is_stall
        self.is_rate_limit = is_rate_limit


class RetryPolicy:
    """Waits between attempts: exponential back-off with jitter, or what the server asks for. Shared by several threads.

    `retries` is how many attempts in a row may fail without a byte received.
    """

    def __init__(self, retries: int, say: Callable[[str], None]) -> None:
        self.retries = retries
        self._say = say
        self._not_before = 0.0
        self.stop = threading.Event()

    def attempt(self, source: str, work: Callable[[], _T]) -> _T:
        """The result of `work`, tried again while it raises TransientError. Raises NetworkError or StallError at the end."""
        failures = 0
        while True:
            self.wait_for_turn()
            try:
                return work()
            except TransientError as failure:
                failures += 1
                self.wait_after(source, failure, failures)

    def wait_after(self, source: str, failure: TransientError, failures: int) -> None:
        """Wait after the `failures`th failure in a row. Raises NetworkError (E-NETWORK) or StallError (E-STALL) at the end."""
        asked = failure.retry_after_s
        if failures > self.retries:
            _give_up(source, failure, failures)
        if asked is not None and asked > LONGEST_RETRY_AFTER_S:
            why = f"{failure.why}, and asks not to come again for {asked:.0f} s"
            raise NetworkError(
                "source", source, why, "run the same command again then; what has been downloaded is kept"
            )
        backoff = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)
        # Never earlier than asked; a little later, so that several processes with the same answer don't come at once.
        wait = backoff if asked is None else asked + random.uniform(0, 0.1 * asked + 0.5)
        if failure.is_rate_limit:
            self._not_before = max(self._not_before, time.monotonic() + wait)
            self._say(f"rate limited, waiting {wait:.0f} s ({failures}/{self.retries})")
        else:
            self._say(f"retry {failures}/{self.retries} in {wait:.1f} s: {failure.why}")
        self.stop.wait(wait)

    def wait_for_turn(self) -> None:
        """Wait as long as a rate limit, met by any thread, lasts."""
        self.stop.wait(max(0.0, self._not_before - time.monotonic()))


def _give_up(source: str, failure: TransientError, failures: int) -> NoReturn:
    hint = "run the same command again; what has been downloaded is kept"
    times = f"{failures} times" if failures > 1 else "once"
    if failure.is_stall:
        raise StallError("source", source, f"{failure.why}, {times}", hint)
    raise NetworkError("source", source, f"{failure.why}, {times}", hint)
