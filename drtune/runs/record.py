"""What a run was made from and where it ran, as plain data; what is unknown is empty text."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import yaml  # type: ignore[import-untyped]

from drtune.base.cards import cards, driver
from drtune.base.errors import ConfigError
from drtune.base.files import sha256_of
from drtune.base.yaml import WRONG, bounded
from drtune.runs.lifecycle import boot_id, pid_namespace

MAX_PATCH_BYTES = 10_000_000
CODE = ("*.py", "*.pyi", "*.yaml", "*.yml", "*.lock", "pyproject.toml")
"""What a patch may hold."""
NO_CODE = ("params.yaml", "dvc.lock")
"""DVC rewrites them while a stage runs; a run keeps them beside its patch."""
SECRET = (
    ".*",
    ".*/**",
    "*compose*.y*ml",
    "*secret*",
    "*credential*",
    "*password*",
    "*token*.y*ml",
    "*key*.y*ml",
)
"""What may hold a key, whatever its ending; letters of either case."""
ODD = re.compile(r'[\x00-\x1f\x7f"\\]')
"""What a name in a patch cannot hold as it is."""
GIT_SECONDS, PATIENT = 3.0, 120.0
"""Seconds that git may take: while a training waits, and while a person does."""


@dataclass(frozen=True)
class RunRecord:
    """Code, environment and process of one run."""

    facts: Mapping[str, str]  # tag -> value, empty where unknown; `proc.` ones name one process for ever
    patch: str  # what `git apply` needs to turn the commit into the code that ran
    left_out: tuple[str, ...]  # changed files that it does not hold: no code, or they may hold a key
    packages: tuple[str, ...]  # installed distributions as `name==version`, sorted

    @property
    def commit(self) -> str:
        """Full SHA of HEAD; in a temporary DVC experiment that is the baseline."""
        return self.facts["git.commit"]

    def tags(self) -> dict[str, str]:
        """The facts that are known."""
        return {name: value for name, value in self.facts.items() if value}


def collect(root: Path) -> RunRecord:
    """Record this process; `root` is the checkout it runs in, the folder of dvc.yaml (well below 0.3 s)."""
    top, commit, branch = head(root)
    commit = commit or os.environ.get("GIT_COMMIT", "")
    patch, left_out = code_patch(top) if top else ("", ())
    packages, torch, process = installed_packages(), sys.modules.get("torch"), psutil.Process()
    facts = {
        "git.commit": commit,
        "git.branch": branch,
        "git.dirty": str(bool(patch)).lower() if commit else "",
        "git.remote": remote_of(root),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.exp_baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "dvc.lock_sha256": _digest(root / "dvc.lock"),
        "env.lock_sha256": _digest(root / "requirements.lock"),
        "env.python": platform.python_version(),
        "env.torch": dict(line.split("==") for line in packages).get("torch", ""),
        "env.cuda": str(torch.version.cuda or "") if torch else "",  # never imported for it
        "env.device": device_name(),
        "env.driver": driver(),
        "env.image": os.environ.get("DRTUNE_IMAGE", ""),  # usually the digest of the container image
        "proc.host": socket.gethostname(),
        "proc.boot": boot_id(),
        "proc.namespace": pid_namespace(),
        "proc.pid": str(process.pid),
        "proc.start": f"{process.create_time():.2f}",
    }
    return RunRecord(facts, patch, left_out, packages)


def git(root: Path, *arguments: str, seconds: float | None = None, index: str = "") -> str:
    """Standard output of one git command; empty where git, the repository or the time is lacking.

    Bytes that are not UTF-8 come back as surrogates, so that a patch can be written unchanged.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # DVC may be writing the index right now
    environment |= {"GIT_INDEX_FILE": index} if index else {}
    command: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": environment}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], timeout=seconds or GIT_SECONDS, **command)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


def keep_commit(root: Path, commit: str) -> None:
    """Keep a commit from git's garbage collection by a ref of our own, so that its runs stay restorable.

    A branch may be amended, rebased or deleted after the run. Nothing happens where git refuses.
    """
    if commit:
        git(root, "update-ref", f"refs/drtune/commits/{commit}", commit)


def head(root: Path) -> tuple[Path | None, str, str]:
    """Top folder, commit and branch of the checkout around `root`; (None, "", "") without a commit."""
    lines = git(root, "rev-parse", "--show-toplevel", "HEAD", "--abbrev-ref", "HEAD").splitlines()
    if len(lines) != 3:
        return None, "", ""
    return Path(lines[0]), lines[1], "" if lines[2] == "HEAD" else lines[2]


def code_patch(top: Path) -> tuple[str, tuple[str, ...]]:
    """Code that differs from HEAD, as one patch: tracked changes of `CODE` files, and untracked .py files.

    A running stage always sees a dirty tree, because DVC rewrites params.yaml and dvc.lock and removes the
    stage's outs: these are no code. Nor is what may hold a key. Above 10 MB only a note stands for the patch.

    Returns:
        The patch, and the changed files that it leaves out.
    """
    ours = [f":(exclude,top,literal){path}" for path in _dvc_outs(top)]
    ours += [f":(exclude,top,glob)**/{name}" for name in NO_CODE]
    code = [f":(top,glob)**/{name}" for name in CODE]
    code += [*(f":(exclude,top,icase,glob)**/{name}" for name in SECRET), *ours]
    form = ["--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"]
    with tempfile.TemporaryDirectory(prefix="drtune-") as scratch:
        index = f"{scratch}/index"  # a copy, in which git learns of new files
        own = top / git(top, "rev-parse", "--git-path", "index").strip()
        if own.is_file():
            shutil.copy(own, index)
        new = git(top, "ls-files", "-oz", "--exclude-standard", "--", ":(top,glob)**/*.py").split("\0")[:-1]
        plain = [
            f":(top,literal){name}" for name in new if not (ODD.search(name) or (top / name).is_symlink())
        ]
        if plain:
            git(top, "add", "--intent-to-add", "--", *plain, index=index)
        patch = git(top, "diff", *form, "HEAD", "--", *code, index=index)
        names = "diff", "--name-only", "-z", "HEAD", "--"
        changed, kept = (
            {*git(top, *names, *which, index=index).split("\0")} for which in ([":/", *ours], code)
        )
    if len(patch) > MAX_PATCH_BYTES:
        patch = f"# the difference from HEAD exceeds {MAX_PATCH_BYTES} bytes and is not recorded\n"
    return patch, tuple(sorted({*changed, *new} - kept - {""}))


def _dvc_outs(top: Path) -> list[str]:
    """Paths, from the top folder, of all outs that the dvc.lock files of this checkout name."""
    paths: set[str] = set()
    for name in git(top, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--", "*dvc.lock").split("\0"):
        try:
            # PyYAML's C loader: ten times faster than ruamel, and only paths are read.
            lock = yaml.load(bounded(top / name), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            outs = [out["path"] for entry in lock["stages"].values() for out in entry.get("outs", [])]
        except (OSError, ConfigError, *WRONG, TypeError):
            continue
        paths |= {str(PurePosixPath(name).parent / out) for out in outs}
    return sorted(paths)


def remote_of(root: Path) -> str:
    """Address of `origin`, without what may be secret in it."""
    return without_userinfo(git(root, "config", "--get", "remote.origin.url").strip())


def without_userinfo(address: str) -> str:
    """A git address without `user:password@` and without a query, which may carry a token."""
    if "://" in address:
        scheme, rest = address.split("://", 1)
        host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return re.sub(r"^[^/:@]+@(?=[^/]+:)", "", address)


def installed_packages() -> tuple[str, ...]:
    """`name==version` of every installed distribution, read from folder names (10 times faster)."""
    found = set()
    for folder in map(Path, filter(os.path.isdir, sys.path)):
        for path in [*folder.glob("*.dist-info"), *folder.glob("*.egg-info")]:
            name, dash, version = path.name.rsplit(".", 1)[0].partition("-")
            if dash:
                found.add(f"{name.replace('_', '-').lower()}=={version}")
    return tuple(sorted(found))


def device_name() -> str:
    """Names of the GPUs of this machine, else of its CPU, without starting CUDA."""
    if names := cards():
        return "; ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        cpu = None
    return cpu[1] if cpu else platform.processor() or platform.machine()


def _digest(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""
