"""The stage key: the content key under which DVC's run cache files a stage. The only file that imports dvc.

It is sha256 over the command, the dependencies' md5, the parameters and the paths of the outs. Computed
inside a running stage, from the dvc.lock of any commit, or under other parameters, equal work has an equal
key: one tag search finds the runs of a commit, of a cached result or of a trial.
Source: dvc 3.67.1, dvc/stage/cache.py `_get_stage_hash` (a private rule, guarded by a test).
"""

import copy
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtune.base.errors import ConfigError, UntrustedError
from drtune.base.yaml import read_yaml

log = logging.getLogger(__name__)

DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
CODE = ("drtune", "pipeline", "numbers.lock")
"""Where the code of a project lies, and the pins of the packages that can move a number."""


@dataclass(frozen=True)
class StageIdentity:
    """What a stage is made from.

    Attributes:
        key: 64 hexadecimal digits, the name of its folder under .dvc/cache/runs/.
        deps: path -> md5 (a folder's ends in `.dir`).
        outs: paths, relative to the folder of dvc.yaml like those of `deps`.
        entry: the stage as dvc.lock will describe it, its outs still without content.
        recorded: whether DVC's run cache holds what the stage made before; False where a `dvc` that was
            killed never took it over, so that the stage does the same work again.
    """

    key: str
    deps: Mapping[str, str]
    outs: tuple[str, ...]
    entry: Mapping[str, Any] = field(default_factory=dict)
    recorded: bool = True


def stage_key(entry: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> str:
    """Key of one stage entry of a dvc.lock, under its own parameters or with some replaced.

    Args:
        entry: the mapping with cmd, deps, params, outs, as read by YAML 1.2 (`1e-05` is a number).
        params: dotted name -> value, replacing parameters that the stage depends on.

    Raises:
        ConfigError: a name in `params` that the stage does not depend on.
    """
    content = copy.deepcopy(dict(entry))
    content["outs"] = [out["path"] for out in content.get("outs", [])]
    for name, value in (params or {}).items():
        replace_param(content.get("params", {}), name, value)
    return content_hash(content)


def content_hash(content: Mapping[str, Any]) -> str:
    """64 hexadecimal digits, as DVC's `_get_cache_hash` takes them of a stage's entry, without sizes."""
    text = json.dumps(without_sizes(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def under(entry: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stage entry under other parameters, dotted name -> value.

    Raises:
        ConfigError: a name that the stage does not depend on.
    """
    fresh = copy.deepcopy(dict(entry))
    for name, value in params.items():
        replace_param(fresh.get("params", {}), name, value)
    return fresh


def lock_keys(lock: Path) -> dict[str, str]:
    """Stage name -> key of every stage that a dvc.lock describes; none without the file."""
    return {name: stage_key(entry) for name, entry in locked_entries(lock).items()}


def locked_entries(lock: Path) -> dict[str, Any]:
    """Stage name -> its entry in a dvc.lock; none without the file.

    Raises:
        ConfigError: it is no lock file.
    """
    stages = read_yaml(lock).get("stages") if lock.exists() else {}
    if isinstance(stages, dict) and all(map(is_entry, stages.values())):
        return stages
    raise ConfigError(f"{lock}: is no lock file as DVC writes it; `git checkout` the last one, or remove it")


def is_entry(entry: Any) -> bool:
    """Whether a value of a lock file has the shape of a stage."""
    if not isinstance(entry, dict) or not isinstance(entry.get("params", {}), dict):
        return False
    files = [entry.get("deps", []), entry.get("outs", [])]
    return all(isinstance(parts, list) for parts in files) and all(
        isinstance(part, dict) and isinstance(part.get("path"), str) for parts in files for part in parts
    )


def is_code(path: str) -> bool:
    """Whether a dependency is code or its pins, which git names, and not data."""
    return path.split("/")[0] in CODE


def stages_at(lock: Path, stage: str, identity: StageIdentity) -> dict[str, str]:
    """Stage name -> key of what a dvc.lock holds once this stage has run, without the stages after it.

    Those are not known yet: what the lock says of them belongs to other inputs.
    """
    entries = locked_entries(lock)
    fresh = set(identity.outs)
    later = {stage}
    while True:
        found = {
            name
            for name, entry in entries.items()
            if name not in later and any(within(dep["path"], fresh) for dep in entry.get("deps", []))
        }
        if not found:
            break
        later |= found
        fresh |= {out["path"] for name in found for out in entries[name].get("outs", [])}
    keys = {name: stage_key(entry) for name, entry in entries.items() if name not in later}
    return keys | {stage: identity.key}


def within(path: str, outs: set[str]) -> bool:
    """Whether a path is one of the outs or lies in one."""
    return path in outs or any(path.startswith(f"{out}/") for out in outs)


def without_sizes(value: Any) -> Any:
    """`value` without the keys `size` and `nfiles`, at any depth: DVC leaves them out of the key."""
    if isinstance(value, dict):
        return {key: without_sizes(part) for key, part in value.items() if key not in ("size", "nfiles")}
    return [without_sizes(part) for part in value] if isinstance(value, list) else value


def replace_param(files: Mapping[str, dict[str, Any]], name: str, value: Any) -> None:
    """Set one dotted parameter wherever a stage names it: whole (`train.lr`) or in a section (`train`)."""
    found = False
    for known in files.values():
        for prefix in known:
            if prefix == name:
                known[prefix], found = value, True
            elif name.startswith(f"{prefix}."):
                *sections, leaf = name[len(prefix) + 1 :].split(".")
                node = known[prefix]
                for section in sections:
                    node = node.get(section) if isinstance(node, dict) else None
                if isinstance(node, dict) and leaf in node:
                    node[leaf], found = value, True
    if not found:
        allowed = ", ".join(prefix for known in files.values() for prefix in known) or "none"
        raise ConfigError(f"{name}: the stage does not depend on this parameter; it depends on: {allowed}")


def current_stage_key(root: Path, stage: str) -> StageIdentity | None:
    """Identity of a stage as the files lie now, with fresh hashes of its dependencies (about 1 s).

    Args:
        root: folder of dvc.yaml in the checkout that the process runs in. In `dvc exp run --temp` that is
            the temporary checkout, not DVC_ROOT.
        stage: `train`, `train@l2` or, as DVC_STAGE has it, `folder/dvc.yaml:train`.

    Returns:
        None outside a DVC repository, or where DVC cannot read the stage or its dependencies (logged).
    """
    if dvc_folder(root) is None:
        return None
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    try:
        with Repo(str(root)) as repo:
            loaded = repo.stage.load_one(path=str(root / "dvc.yaml"), name=stage.rpartition(":")[2])
            loaded.save_deps()
            entry = json.loads(json.dumps(to_single_stage_lockfile(loaded)))
            run_cache = Path(repo.stage_cache.cache_dir)
    except (DvcException, OSError) as error:
        log.warning("stage %s has no key, its run cannot be found by content: %s", stage, error)
        return None
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    outs = tuple(out["path"] for out in entry.get("outs", []))
    key = stage_key(entry)
    recorded = "DVC_STAGE" not in os.environ or (run_cache / key[:2] / key).is_dir()
    return StageIdentity(key=key, deps=deps, outs=outs, entry=entry, recorded=recorded)


def dvc_folder(start: Path) -> Path | None:
    """The nearest folder at or above `start` that holds .dvc."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if (folder / ".dvc").is_dir()), None)


def store_root() -> Path:
    """The folder whose runs are kept together: DVC_ROOT, else the DVC root above the cwd, else the cwd.

    DVC sets DVC_ROOT to the parent workspace in temporary and queued experiments, whose own folder is
    deleted at the end.
    """
    if named := os.environ.get("DVC_ROOT"):
        return Path(named).resolve()
    return dvc_folder(Path.cwd()) or Path.cwd()


def cache_folder(root: Path) -> Path:
    """Where the DVC repository at `root` keeps its objects: `<folder>/files/md5/ab/cdef…`.

    Raises:
        ConfigError: `root` is no DVC repository, or DVC cannot read its settings.
    """
    return Path(dvc_settings(root)["cache"]["dir"])


def cached_object(cache: Path, md5: str) -> Path:
    """Where a cache keeps an object: a file, or the listing of a folder, whose md5 ends in `.dir`.

    Raises:
        UntrustedError: what stands for the md5 is none.
    """
    if not DIGEST.fullmatch(str(md5)):
        raise UntrustedError(f"{str(md5)[:100]!r} is no md5 of DVC's; refused, nothing was read")
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def share_cache(root: Path, other: Path) -> None:
    """Let the DVC repository at `other`, a worktree, use the cache and the remotes of the one at `root`.

    Written to its .dvc/config.local, which git ignores; `root`'s own local settings go there too. DVC itself
    cannot write a path with letters beyond ASCII, but reads it.

    Raises:
        ConfigError: one of them is no DVC repository, or DVC cannot read its settings.
    """
    from configobj import ConfigObj

    settings = dvc_settings(root)
    if not (other / ".dvc").is_dir():
        raise ConfigError(f"{other}: the commit holds no .dvc folder, so DVC cannot work there")
    written = ConfigObj(encoding="utf-8")
    for section, values in settings.items():
        for key, value in values.items():
            if isinstance(value, dict):  # of a remote, by its name
                written[f'{section} "{key}"'] = value
            else:
                written.setdefault(section, {})[key] = value
    with (other / ".dvc" / "config.local").open("wb") as stream:
        written.write(stream)


def dvc_settings(root: Path) -> dict[str, Any]:
    """Settings of a DVC repository, those of the project and the local ones, with absolute paths."""
    from dvc.config import Config
    from dvc.config import ConfigError as Unreadable

    if not (root / ".dvc").is_dir():
        raise ConfigError(f"{root}: no DVC repository; run this in the project's folder")
    try:
        config = Config(str(root / ".dvc"))
        settings: dict[str, Any] = {}
        for level in ("repo", "local"):
            for section, values in config.load_one(level).items():
                settings.setdefault(section, {}).update(values)
    except Unreadable as fault:
        raise ConfigError(f"{root / '.dvc'}: {fault}") from None
    settings["cache"].setdefault("dir", str(root / ".dvc" / "cache"))
    return settings
