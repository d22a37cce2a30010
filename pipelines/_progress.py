"""Show on stderr how far a long stage is: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class ProgressBar:
    """Told (stage, units done, units in all) by the work; a stage begins when its name first appears."""

    def __init__(self, unit: str, units: Mapping[str, str] | None = None) -> None:
        """`unit` is what the stages count, such as bases, save those that `units` names."""
        self._default, self._units, self._stage = unit, units or {}, ""
        self._bar: tqdm | None = None
        self._started = self._last_line = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._started, self._last_line = stage, now, now
            if sys.stderr.isatty():
                self._bar = tqdm(desc=stage, total=total, unit=f" {self._unit}", unit_scale=True, file=sys.stderr)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done == total or now - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line(done, total, now - self._started)
            self._last_line = now

    @property
    def _unit(self) -> str:
        return self._units.get(self._stage, self._default)

    def _print_line(self, done: int, total: int, seconds: float) -> None:
        left = seconds * (total - done) / done if done else 0.0
        rate = f" {done / seconds:,.0f} {self._unit}/s," if seconds >= 1 else ""
        print(f"{self._stage}: {done:,} of {total:,} {self._unit}, {seconds:.0f} s,{rate} {left:.0f} s left", file=sys.stderr)

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
