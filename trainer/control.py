"""The requests that reach a running job from another thread, honoured between two steps."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable


class Request(enum.Enum):
    """What the job should do at its next step boundary."""

    CONTINUE = "continue"
    STOP = "stop"
    STOP_AND_SAVE = "stop_and_save"
    INTERRUPT = "interrupt"
    """End, and note the state alone: the system wants the machine, and the job goes on later."""


class Control:
    """A job's remote control: written by any thread, read by the job's own.

    A request to stop is final; the gentler `stop_and_save` may still be sharpened to the others.
    """

    def __init__(self) -> None:
        self._request = Request.CONTINUE
        self._running = threading.Event()
        self._running.set()
        self.give_way: Callable[[], None] = self.wait_while_paused
        """What happens between two steps; a host that shares its machine puts its own here, which
        calls `wait_while_paused` at a moment when others may have the machine."""
        self.hint = ""
        """What the user should know just now; the host's to set and to take back."""

    @property
    def request(self) -> Request:
        return self._request

    @property
    def paused(self) -> bool:
        return not self._running.is_set()

    def stop(self) -> None:
        """Ends the job at the next step; nothing more is saved."""
        self._request = Request.STOP
        self._running.set()

    def stop_and_save(self) -> None:
        """Ends the job at the next step and saves what it has learned."""
        if self._request is Request.CONTINUE:
            self._request = Request.STOP_AND_SAVE
        self._running.set()

    def interrupt(self) -> None:
        """Ends the job at the next step, whose state is saved and no result."""
        if self._request is not Request.STOP:
            self._request = Request.INTERRUPT
        self._running.set()

    def pause(self) -> None:
        """Holds the job at its next step boundary until `resume` or a stop."""
        if self._request is Request.CONTINUE:
            self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def checkpoint(self) -> Request:
        """Called by the job between two steps: waits while paused, then says how to go on."""
        self.give_way()
        return self._request

    def wait_while_paused(self) -> None:
        """Returns at once when nothing is paused, otherwise at `resume` or a stop."""
        self._running.wait()
