"""The log of a stage: what it says on the terminal, kept beside its run and readable while it works."""

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from drtune.base.errors import DRTuneError
from drtune.runs.lifecycle import Stopped
from drtune.runs.store import scrub

SHIP_EVERY_SECONDS = 30.0
MAX_BYTES = 20_000_000
CURSOR, COLOUR = re.compile(r"\x1b\[[\d;?]*[^m\d;?]"), re.compile(r"\x1b\[[\d;]*m")
"""Terminal sequences that move the cursor, as bars do, and those that only colour."""


class _Tee:
    """A stream that passes everything on and also hands each text to `keep`."""

    def __init__(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        self._stream, self._keep = stream, keep

    def write(self, text: str) -> int:
        count = self._stream.write(text)  # the terminal first: keeping a copy never fails a stage
        self._keep(text)
        return count

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def captured(path: Path, grown: Callable[[], None]) -> Iterator[None]:
    """Keep what the block writes to standard output and error, and how it ends, in the file at `path`.

    Passwords and the frames of a progress bar are left out; a continued stage appends. `grown` is called when
    there is something new to ship, at most every 30 seconds and at the end.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError:  # a full disk: the stage works all the same
        file = open(os.devnull, "a")  # noqa: SIM115
    shipped, size = time.monotonic(), 0

    def keep(text: str) -> None:
        nonlocal shipped, size
        if CURSOR.search(text) or "\r" in text or size > MAX_BYTES:  # such a write is a frame of a bar
            return
        with suppress(OSError, ValueError):  # a full disk, or a stream used after the end
            size += file.write(scrub(COLOUR.sub("", text)))
            if time.monotonic() - shipped > SHIP_EVERY_SECONDS:
                shipped = time.monotonic()
                file.flush()
                grown()

    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Tee(stream, keep)) for stream in before)
    try:
        yield
    except Stopped as stop:
        keep(f"stopped by {stop.signal.name}\n")
        raise
    except (SystemExit, DRTuneError) as end:
        keep(f"{end}\n")
        raise
    except BaseException:
        keep(traceback.format_exc())
        raise
    finally:
        sys.stdout, sys.stderr = before
        with suppress(OSError):
            file.close()
        grown()
