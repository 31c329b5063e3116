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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drtune.base.errors import ConfigError, UntrustedError
from drtune.base.yaml import read_yaml
from drtune.runs.outs import DIGEST, is_entry, listed_files

log = logging.getLogger(__name__)

CODE = ("drtune", "pipeline", "numbers.lock")
"""Where the code of a project lies, and the pins of the packages that can move a number."""


@dataclass(frozen=True)
class StageIdentity:
    """What a stage is made from; paths are relative to the folder of dvc.yaml.

    `recorded`: whether DVC's cache holds what the stage made before; False where a kill or a full disk kept
    it from there, so that the stage does the same work again.
    """

    key: str  # 64 hexadecimal digits, the name of its folder under .dvc/cache/runs/
    deps: Mapping[str, str]  # path -> md5 (a folder's ends in `.dir`)
    outs: tuple[str, ...]
    entry: Mapping[str, Any] = field(default_factory=dict)  # as dvc.lock will have it, outs without content
    recorded: bool = True


def stage_key(entry: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> str:
    """Key of a stage entry of a dvc.lock, as YAML 1.2 reads it, under its own or other parameters."""
    content = under(entry, params or {})
    return content_hash({**content, "outs": [out["path"] for out in content.get("outs", [])]})


def content_hash(content: Mapping[str, Any]) -> str:
    """64 hexadecimal digits, as DVC's `_get_cache_hash` takes them of a stage's entry, without sizes."""
    return hashlib.sha256(json.dumps(_without_sizes(content), sort_keys=True).encode()).hexdigest()


def _without_sizes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_sizes(part) for key, part in value.items() if key not in ("size", "nfiles")}
    return [_without_sizes(part) for part in value] if isinstance(value, list) else value


def under(entry: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stage entry under other parameters, dotted name -> value.

    ConfigError: a name that the stage does not depend on.
    """
    fresh = copy.deepcopy(dict(entry))
    for name, value in params.items():
        replace_param(fresh.get("params", {}), name, value)
    return fresh


def replace_param(files: Mapping[str, dict[str, Any]], name: str, value: Any) -> None:
    """Set one dotted parameter wherever a stage names it: whole (`train.lr`) or in a section (`train`)."""
    found = False
    for known in files.values():
        for prefix in known:
            node, leaf = known, prefix
            if name.startswith(f"{prefix}."):
                *sections, leaf = name[len(prefix) + 1 :].split(".")
                for section in (prefix, *sections):
                    node = node.get(section, {}) if isinstance(node, dict) else {}
            elif prefix != name:
                continue
            if isinstance(node, dict) and leaf in node:
                node[leaf], found = value, True
    if not found:
        allowed = ", ".join(prefix for known in files.values() for prefix in known) or "none"
        raise ConfigError(f"{name}: the stage does not depend on this parameter; it depends on: {allowed}")


def lock_keys(lock: Path) -> dict[str, str]:
    """Stage name -> key of every stage that a dvc.lock describes; none without the file."""
    return {name: stage_key(entry) for name, entry in locked_entries(lock).items()}


def locked_entries(lock: Path) -> dict[str, Any]:
    """Stage name -> its entry in a dvc.lock; none without the file. ConfigError where it is no lock file."""
    stages = read_yaml(lock).get("stages") if lock.exists() else {}
    if isinstance(stages, dict) and all(map(is_entry, stages.values())):
        return stages
    raise ConfigError(f"{lock}: is no lock file as DVC writes it; `git checkout` the last one, or remove it")


def is_code(path: str) -> bool:
    """Whether a dependency is code or its pins, which git names, and not data."""
    return path.split("/")[0] in CODE


def stages_at(lock: Path, stage: str, identity: StageIdentity) -> dict[str, str]:
    """Stage name -> key of what a dvc.lock holds once this stage has run, without the stages after it.

    Those are not known yet: what the lock says of them belongs to other inputs.
    """
    entries, fresh = locked_entries(lock), set(identity.outs)
    entries.pop(stage, None)

    def reads_fresh(entry: Mapping[str, Any]) -> bool:
        return any(f"{dep['path']}/".startswith(f"{out}/") for dep in entry.get("deps", []) for out in fresh)

    while later := [name for name, entry in entries.items() if reads_fresh(entry)]:
        fresh |= {out["path"] for name in later for out in entries.pop(name).get("outs", [])}
    return {name: stage_key(entry) for name, entry in entries.items()} | {stage: identity.key}


def current_stage_key(root: Path, stage: str) -> StageIdentity | None:
    """Identity of a stage as the files lie now, with fresh hashes of its dependencies (about 1 s).

    `root` holds dvc.yaml in the checkout that the process runs in, in `dvc exp run --temp` the temporary one.
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
            cache = Path(repo.stage_cache.cache_dir).parent
    except (DvcException, OSError) as error:
        log.warning("stage %s has no key, its run cannot be found by content: %s", stage, error)
        return None
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    outs, key = tuple(out["path"] for out in entry.get("outs", [])), stage_key(entry)
    recorded = "DVC_STAGE" not in os.environ or holds_result(cache, key)
    return StageIdentity(key=key, deps=deps, outs=outs, entry=entry, recorded=recorded)


def dvc_folder(start: Path) -> Path | None:
    """The nearest folder at or above `start` that holds .dvc."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if (folder / ".dvc").is_dir()), None)


def store_root() -> Path:
    """The folder whose runs are kept together: DVC_ROOT, else the DVC root above the cwd, else the cwd.

    DVC_ROOT is the parent workspace in temporary experiments, whose own folder is deleted at the end.
    """
    if named := os.environ.get("DVC_ROOT"):
        return Path(named).resolve()
    return dvc_folder(Path.cwd()) or Path.cwd()


def cache_folder(root: Path) -> Path:
    """Where the DVC repository at `root` keeps its objects, see `dvc_settings`."""
    return Path(dvc_settings(root)["cache"]["dir"])


def cached_object(cache: Path, md5: str) -> Path:
    """Where a cache keeps an object: a file, or the listing of a folder, whose md5 ends in `.dir`.

    UntrustedError: what stands for the md5 is none.
    """
    if not DIGEST.fullmatch(str(md5)):
        raise UntrustedError(f"{str(md5)[:100]!r} is no md5 of DVC's; refused, nothing was read")
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def holds_object(cache: Path, md5: str) -> bool:
    """Whether the cache has a file, or a folder's listing and every file in it."""
    held = cached_object(cache, md5)
    if not held.is_file() or not md5.endswith(".dir"):
        return held.is_file()
    return all(cached_object(cache, part).is_file() for part in listed_files(held, Path()).values())


def results_of(cache: Path, key: str) -> Path:
    """The folder of the run cache with a file for each result of a stage key."""
    return cache / "runs" / key[:2] / key


def result_at(path: Path) -> dict[str, Any] | None:
    """A result's file; None where there is none that can be read."""
    try:
        return read_yaml(path)
    except ConfigError:
        return None


def holds_result(cache: Path, key: str) -> bool:
    """Whether the run cache holds all of the newest result of this key; DVC looks at no other."""
    newest = max(results_of(cache, key).glob("*"), key=lambda path: path.stat().st_mtime, default=None)
    entry = result_at(newest) if newest else None
    return entry is not None and all(holds_object(cache, out.get("md5", "")) for out in entry.get("outs", []))


def share_cache(root: Path, other: Path) -> None:
    """Give the DVC repository at `other`, a worktree, the settings of that at `root`: its cache, its remotes.

    They go to .dvc/config.local, which git ignores. ConfigError where one of them is no DVC repository.
    """
    from dvc.config import Config

    settings = dvc_settings(root)
    if not (other / ".dvc").is_dir():
        raise ConfigError(f"{other}: the commit holds no .dvc folder, so DVC cannot work there")
    with Config(str(other / ".dvc"), validate=False).edit("local", validate=False) as config:
        config.update(settings)


def dvc_settings(root: Path) -> dict[str, Any]:
    """Settings of a DVC repository, those of the project and the local ones, with absolute paths.

    ConfigError: `root` is no DVC repository, or DVC cannot read its settings.
    """
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
