"""What a stage shows while it works: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

SECONDS, PLAIN_SECONDS = 0.1, 5.0  # at least between two states of the bar, and between two plain lines


class Bar:
    """Progress of one piece of work, called with (done, total); it appears with the first call.

    `label` says what is done; `unit` is counted, `scale` of them with each count; `note` is added in words.
    """

    def __init__(self, label: str, unit: str, scale: float = 1.0) -> None:
        self.label, self.unit, self.scale, self.note, self.last = label, unit, scale, "", 0
        self.begun: tuple[float, int] | None = None
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")]
        self.bar = Progress(*columns) if sys.stdout.isatty() else None

    def __enter__(self) -> "Bar":
        return self

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Show that `done` of `total` are done, maybe of another piece; a total of 0 is unknown."""
        now = time.monotonic()
        if self.begun is None or done < self.last:  # the first call, or the next of several files
            if self.bar is not None and self.begun is None:
                self.bar.start()
                self.task = self.bar.add_task(self.label, state="")
            self.begun, self.shown = (now, done), now
        self.last = done
        if now - self.shown < (PLAIN_SECONDS if self.bar is None else SECONDS) and done != total:
            return
        self.shown, state, words = now, self._state(now, done, total), label or self.label
        if self.bar is None:
            print(f"{words}: {state}  {self.note}".rstrip(), flush=True)
        else:
            state = f"{state}\n{self.note}".rstrip()
            self.bar.update(self.task, completed=done, total=total or None, description=words, state=state)

    def _state(self, now: float, done: int, total: int) -> str:
        """'475/3,000 images  115 images/s  0:00:22 left', as far as it is known."""
        started, first = self.begun or (now, done)
        of_all = f"/{total * self.scale:,.0f}" if total else ""
        words = f"{done * self.scale:,.0f}{of_all} {self.unit}"
        if done > first and now > started:
            rate = (done - first) / (now - started)
            words += f"  {rate * self.scale:,.0f} {self.unit}/s"
            words += f"  {timedelta(seconds=round((total - done) / rate))} left" if total > done else ""
        return words

    def __exit__(self, *_: object) -> None:
        if self.bar is not None and self.begun:
            self.bar.stop()
