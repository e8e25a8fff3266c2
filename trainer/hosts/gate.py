"""The turnstile between training and generating: one of them has the machine at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..control import Control, Request

log = logging.getLogger(__name__)

INTERLEAVE, PAUSE, BLOCK = "interleave", "pause while I work", "block"
SHARING = (INTERLEAVE, PAUSE, BLOCK)
"""What a training does when a picture is wanted: makes room for it between two steps, stays away
until the user has been idle for a while, or lets it wait for the end."""

TAKE_OVER_S = 0.5
"""A thread that was let in has the lock within this time, or does not want it any more."""
POLL_S = 0.02


@dataclass(frozen=True)
class Manners:
    """How a training behaves towards the user."""

    sharing: str = INTERLEAVE
    idle_s: float = 20.0
    """With PAUSE: how long the webui must have been idle before training goes on."""


class Gate:
    """Holds a webui's queue lock for a training, and gives it up between two steps.

    The lock is fair but not re-entrant: whoever waits is let in, then the training waits.
    """

    def __init__(
        self,
        lock: Any,
        control: Control,
        manners: Callable[[], Manners],
        *,
        on_leave: Callable[[], None] = lambda: None,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes nothing yet.

        Args:
            lock: the webui's lock: `acquire(blocking)`, `release()`.
            control: the job's.
            manners: asked at every step, so that the user may change them in the middle.
            on_leave: called before others get the machine.
            on_return: called with the lock held after others had the machine.
        """
        self._lock = lock
        self._control = control
        self._manners = manners
        self._on_leave = on_leave
        self._on_return = on_return
        self.stay = False
        """Set to keep the machine whatever happens, until the job ends."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the lock and has it for the length of a `with` block."""
        self._lock.acquire()
        before = self._control.give_way
        self._control.give_way = self.give_way
        try:
            yield
        finally:
            self._control.give_way = before
            self._lock.release()

    def give_way(self) -> None:
        """Between two steps: lets others in if there are any, or if the job is paused."""
        manners = self._manners()
        paused = self._control.paused
        if not paused and (self.stay or manners.sharing == BLOCK or not self.wanted):
            return
        self._on_leave()
        self._lock.release()
        try:
            if paused:
                self._control.wait_while_paused()
            else:
                self._let_in()
                if manners.sharing == PAUSE:
                    self._wait_for_idleness(manners.idle_s)
        finally:
            self._lock.acquire()
        self._on_return()

    @property
    def wanted(self) -> bool:
        """Whether another thread waits for the lock."""
        return bool(getattr(self._lock, "_pending_threads", ()))

    @property
    def _busy(self) -> bool:
        """Whether another thread has the lock or waits for it; called without holding it."""
        if not self._lock.acquire(False):
            return True
        self._lock.release()
        return self.wanted

    def _let_in(self) -> None:
        """Waits until a thread that was woken has the lock: it is not fair in that moment."""
        deadline = time.monotonic() + TAKE_OVER_S
        while not self._busy and time.monotonic() < deadline:
            time.sleep(POLL_S / 10)

    def _wait_for_idleness(self, idle_s: float) -> None:
        log.info("training waits until the webui has been idle for %g s", idle_s)
        busy_at = time.monotonic()
        while self._control.request is Request.CONTINUE:
            now = time.monotonic()
            if self._busy:
                busy_at = now
            elif now - busy_at >= idle_s:
                return
            time.sleep(POLL_S)
