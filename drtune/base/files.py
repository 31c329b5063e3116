"""Write aside and rename; content hashes; JSON with stable bytes."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from drtune.base.errors import UntrustedError

LONGEST_NAME, LONGEST_PART, MOST_PARTS = 4096, 255, 200
HALF = ".half"
"""Ends the name of a folder in which something is made before it is renamed."""
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""A full disk, a used-up quota, a read-only file system, a lack of rights, a disk that breaks."""


def refusal_of_disk(fault: BaseException) -> str | None:
    """What the disk answered, where its refusal stands behind an exception; else None.

    Libraries raise errors of their own over the system's: safetensors quotes its words, PyTorch leaves it as
    the context.
    """
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in REFUSALS:
            return f"{seen.strerror}: {seen.filename}" if seen.filename else str(seen.strerror)
        quoted = next((os.strerror(number) for number in REFUSALS if os.strerror(number) in str(seen)), None)
        if quoted:
            return quoted
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target`; on success it replaces `target`, on failure nothing is left.

    The yielded path does not exist yet: make a file or a folder there. A folder at `target` is removed
    first, because rename cannot replace a folder that holds files. What a killed process had made for the
    same target is removed before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_halves(target)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=HALF, dir=target.parent))
    fresh = aside / target.name
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        locked(aside, stack)
        yield fresh
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(fresh, target)


def remove_halves(target: Path) -> None:
    """Remove what processes that are dead had made for a target; one that lives holds its folder."""
    for half in target.parent.glob(f".{glob.escape(target.name)}.*{HALF}"):
        with suppress(FileNotFoundError), ExitStack() as stack:  # its process has just ended
            if locked(half, stack):
                shutil.rmtree(half, ignore_errors=True)


def locked(folder: Path, stack: ExitStack) -> bool:
    """Hold a folder until the stack or this process ends; False where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # that, or a file system without locks
        return False
    return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a trailing newline: equal values give equal bytes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        UntrustedError: it is none, or nested without end.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise UntrustedError(f"{path}: not valid JSON ({str(fault)[:200]}); fetch it again") from None


def inside(root: Path, name: Any) -> Path:
    """The path of `name` below `root`; every name from a store, listing, record or archive passes here.

    Raises:
        UntrustedError: it is absolute, goes up, has a drive or a control character, is too long or no text,
            or a link leads it out.
    """
    text = name if isinstance(name, str) else ""
    parts = re.split(r"[/\\]", text)
    odd = not text.strip() or any(ord(letter) < 32 for letter in text) or len(text) > LONGEST_NAME
    odd |= len(parts) > MOST_PARTS or max(map(len, parts)) > LONGEST_PART
    if odd or parts[0] == "" or ".." in parts or PureWindowsPath(text).drive:
        raise UntrustedError(f"{str(name)[:200]!r} is no path below {root}; refused, nothing was written")
    if not (root / text).resolve().is_relative_to(root.resolve()):
        raise UntrustedError(f"{text[:200]!r} leads out of {root} by a link; refused, nothing was written")
    return root / text
