"""The log of a stage: what it says on the terminal, kept beside its run and readable while it works."""

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, cast

from drtune.base.errors import DRTuneError
from drtune.runs.lifecycle import Stopped
from drtune.runs.store import scrub

SHIP_EVERY_SECONDS = 30.0
MAX_BYTES = 20_000_000
CURSOR, COLOUR = re.compile(r"\x1b\[[\d;?]*[^m\d;?]"), re.compile(r"\x1b\[[\d;]*m")
"""Terminal sequences that move the cursor, as bars do, and those that only colour."""


class Tee:
    """A stream that passes everything on and also hands each text to `keep`."""

    def __init__(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        self._stream, self._keep = stream, keep

    def write(self, text: str) -> int:
        """Write to the terminal first; keeping a copy never fails a stage."""
        count = self._stream.write(text)
        self._keep(text)
        return count

    def writelines(self, lines: list[str]) -> None:
        """As for any stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class StageLog:
    """Collects text in a file, without passwords and without the frames of a progress bar.

    Args:
        path: the file; a continued stage appends.
        grown: called when there is something new to ship, at most every 30 seconds.
    """

    def __init__(self, path: Path, grown: Callable[[], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._grown, self._shipped, self._bytes = grown, time.monotonic(), 0

    def keep(self, text: str) -> None:
        """Append; a write that moves the cursor is a frame of a bar and is left out."""
        if CURSOR.search(text) or "\r" in text or self._bytes > MAX_BYTES:
            return
        try:
            self._bytes += self._file.write(scrub(COLOUR.sub("", text)))
            if time.monotonic() - self._shipped > SHIP_EVERY_SECONDS:
                self._shipped = time.monotonic()
                self._file.flush()
                self._grown()
        except (OSError, ValueError):  # a full disk, or a stream used after the end
            return

    def close(self) -> None:
        """Close the file and ship what is in it."""
        self._file.close()
        self._grown()


@contextmanager
def captured(path: Path, grown: Callable[[], None]) -> Iterator[None]:
    """Keep what the block writes to standard output and error, and how it ends, in the file at `path`."""
    log = StageLog(path, grown)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Tee(stream, log.keep)) for stream in before)
    try:
        yield
    except Stopped as stop:
        log.keep(f"stopped by {stop.signal.name}\n")
        raise
    except (SystemExit, DRTuneError) as end:
        log.keep(f"{end}\n")
        raise
    except BaseException:
        log.keep(traceback.format_exc())
        raise
    finally:
        sys.stdout, sys.stderr = before
        log.close()
