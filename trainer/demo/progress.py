"""What the stages of the embedded checkpoint's training share."""

from __future__ import annotations

import time

SEED = 20261120


def report(stage: str, step: int, steps: int, started: float, figures: str, first: int = 0) -> None:
    elapsed = time.monotonic() - started
    left = elapsed / (step + 1 - first) * (steps - step - 1)
    print(f"{stage}: {step + 1}/{steps}  {figures}  {elapsed:.0f} s, {left:.0f} s left", flush=True)
