"""Which stages a commit holds, by stage key."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from drtune.base.errors import TrackingError
from drtune.runs.record import git
from drtune.runs.stage_key import stage_key

PATIENT = 120.0
"""Seconds that git may take: a person waits for the answer, no training does."""


def resolve_commit(root: Path, revision: str) -> str:
    """SHA of a commit, branch, tag or DVC experiment.

    Raises:
        TrackingError: git knows none of this name here.
    """
    found = git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    ).strip()
    if not found:  # the name of a DVC experiment, refs/exps/<2>/<38>/<name>
        form = "--format=%(objectname) %(refname)"
        refs = git(root, "for-each-ref", form, "refs/exps", seconds=PATIENT).splitlines()
        found = next((line.split()[0] for line in refs if line.endswith(f"/{revision}")), "")
    if not found:
        raise TrackingError(
            f"{revision}: no such commit, branch, tag or experiment in {root}; "
            "see `git log --all` and `dvc exp list`, or fetch it with `git fetch`"
        )
    return found


def stage_keys(root: Path, revision: str) -> dict[str, str]:
    """Stage -> stage key of every entry in the dvc.lock files of a commit.

    Stages of a dvc.lock below the top folder are named with it, `pretrain/train`.

    Raises:
        TrackingError: no such commit, or it holds no dvc.lock.
    """
    commit = resolve_commit(root, revision)
    listed = git(root, "ls-tree", "-r", "--name-only", "--full-tree", "-z", commit, seconds=PATIENT)
    names = listed.split("\0")
    locks = [name for name in names if name == "dvc.lock" or name.endswith("/dvc.lock")]
    if not locks:
        raise TrackingError(f"{revision}: holds no dvc.lock; commit it after `dvc repro`")
    keys: dict[str, str] = {}
    for name in locks:
        try:
            lock = YAML(typ="safe", pure=True).load(git(root, "show", f"{commit}:{name}", seconds=PATIENT))
        except YAMLError as fault:
            raise TrackingError(f"{name} in {revision}: not valid YAML\n{fault}") from None
        folder = name.removesuffix("dvc.lock")
        stages = (lock or {}).get("stages") or {}
        keys |= {f"{folder}{stage}": stage_key(entry) for stage, entry in stages.items()}
    return keys
