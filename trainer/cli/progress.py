"""What a run tells, on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tqdm import tqdm

from ..events import Event, Notice, PhaseProgress, PhaseStarted, Saved, StepDone


class Bars:
    """A sink that shows one bar for the phase that runs."""

    def __init__(self) -> None:
        self.bar: tqdm[None] | None = None

    def __call__(self, event: Event) -> None:
        # A terminal that was closed, or a log on a full disk, does not end a training.
        with contextlib.suppress(OSError):
            self._show(event)

    def _show(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self.close()
            if event.total:
                self.bar = tqdm(total=event.total, desc=event.title, dynamic_ncols=True)
            else:
                print(event.title, flush=True)
        elif isinstance(event, PhaseProgress) and self.bar is not None:
            self.bar.update(event.done - self.bar.n)
        elif isinstance(event, StepDone) and self.bar is not None:
            self.bar.set_postfix_str(f"loss {event.smoothed_loss:.4f}", refresh=False)
            self.bar.update(event.step - self.bar.n)
        elif isinstance(event, Saved):
            tqdm.write(f"Saved {event.path}")
        elif isinstance(event, Notice):
            tqdm.write(event.text)

    def close(self) -> None:
        bar, self.bar = self.bar, None
        if bar is not None:
            with contextlib.suppress(OSError):
                bar.close()


@contextlib.contextmanager
def show_progress() -> Iterator[Bars]:
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()
