"""Data sets of the Hugging Face hub: one commit, from the hub, its cache, or a folder put there by hand."""

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from pydantic_core import PydanticCustomError

from drtune.base.errors import DataError
from drtune.base.files import inside
from drtune.base.hub import silence_of
from drtune.sources.archives import DISK_FULL

ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


def names_a_commit(address: str) -> str:
    """Validate `OWNER/NAME@COMMIT`: a branch would be other images tomorrow, and nobody would see it."""
    if address and not ADDRESS.fullmatch(address):
        text = (
            "expected OWNER/NAME@COMMIT with the 40 digits of a commit, which "
            "`git ls-remote https://huggingface.co/datasets/OWNER/NAME` prints"
        )
        raise PydanticCustomError("hub", "{text}", {"text": text})
    return address


def snapshot(name: str, address: str, patterns: Sequence[str], downloads: Path) -> Path:
    """The folder that holds a data set's files; what the hub's cache (HF_HOME) has is not fetched again.

    Args:
        name: of the record; `downloads/NAME/hub-COMMIT` is where a person may put the files.
        address: `OWNER/NAME@COMMIT`.
        patterns: of the files that are wanted; none means all.
        downloads: folder of all downloads.

    Raises:
        DataError: it cannot be had; says what to put where.
    """
    dataset, _, commit = address.partition("@")
    by_hand = inside(downloads, name) / f"hub-{commit[:12]}"
    if by_hand.is_dir():
        return by_hand
    from huggingface_hub import constants, snapshot_download

    silence = hub_silence(constants.ENDPOINT, constants.HF_HUB_OFFLINE)
    try:
        return Path(
            snapshot_download(
                dataset,
                repo_type="dataset",
                revision=commit,
                allow_patterns=list(patterns) or None,
                local_files_only=bool(silence),
            )
        )
    except Exception as fault:  # its client raises the errors of several libraries
        if isinstance(fault, OSError) and fault.errno in DISK_FULL:
            raise
        reason = silence or str(fault).strip().split("\n")[0]
        what = "".join(f" --include {quote(pattern)}" for pattern in patterns)
        raise DataError(
            f"{name}: cannot fetch {dataset} at {commit[:12]} from {constants.ENDPOINT}: {reason}\n"
            "on a machine with access (for a gated set after `hf auth login`):\n"
            f"  hf download {dataset} --repo-type dataset --revision {commit}{what} --local-dir {name}\n"
            f"then copy that folder here as {by_hand} and run again"
        ) from None


def hub_silence(endpoint: str, offline: bool) -> str:
    """Why the hub cannot be asked; empty where it answers."""
    if offline:
        return "HF_HUB_OFFLINE is set, and its cache does not have it"
    reason = silence_of(endpoint)
    return f"it does not answer ({reason}), and its cache does not have it" if reason else ""
