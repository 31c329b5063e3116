"""What a stage shows while it works: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0
"""Least time between two plain lines."""


class Bar:
    """Progress of one piece of work, called with (done, total); it appears with the first call.

    Args:
        label: what is being done.
        unit: what is counted.
        scale: units in one count.

    Attributes:
        note: shown behind the rate.
    """

    def __init__(self, label: str, unit: str, scale: float = 1.0) -> None:
        self.label, self.unit, self.scale, self.note = label, unit, scale, ""
        self.started, self.shown, self.first = 0.0, 0.0, 0
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.bar = Progress(*columns) if sys.stderr.isatty() else None

    def __enter__(self) -> "Bar":
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        now = time.monotonic()
        if not self.started:
            self.started, self.shown, self.first = now, now, done
            if self.bar is not None:
                self.bar.start()
                self.task = self.bar.add_task(self.label, total=None, rate="", note="")
        if now - self.shown < (0.1 if self.bar else PLAIN_SECONDS) and done < total:
            return
        self.shown = now
        per_second = (done - self.first) * self.scale / max(now - self.started, 1e-6)
        rate = f"{per_second:,.0f} {self.unit}/s" if done > self.first else ""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total or None, description=self.label)
            self.bar.update(self.task, rate=rate, note=self.note)
        else:
            print(f"{self.label}: {done}/{total}  {rate}  {self.note}".rstrip(), flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None and self.started:
            self.bar.stop()
