"""What a run was made from and where it ran, as plain data.

Every part is optional: without git, a commit or a GPU the record holds empty text and `tags` leaves it out.
"""

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
GIT_SECONDS = 3.0


@dataclass(frozen=True)
class RunRecord:
    """Code, environment and process of one run; an empty text means unknown or absent.

    Attributes:
        commit: full SHA of HEAD; in a temporary DVC experiment that is the baseline.
        branch: short name, empty on a detached HEAD.
        dirty: whether `patch` holds anything.
        remote: address of `origin` without user name, password or query.
        patch: what `git apply` needs to turn the commit into the code that ran.
        left_out: changed files that it does not hold, because they are no code or may hold a key.
        packages: installed distributions as `name==version`, sorted.
        torch, cuda: version of PyTorch, and of CUDA that it was built for.
        device: GPU names, or the CPU's name where there is none.
        driver: version of NVIDIA's driver.
        image: what DRTUNE_IMAGE says, usually the digest of the container image.
        boot_id, pid_namespace, pid, started: with `host` they name one process for ever; `started` in Unix
            seconds.
        dvc_stage, exp_name, exp_baseline: what DVC says of itself in the environment.
        requirements_sha256, dvc_lock_sha256: of the files beside dvc.yaml.
    """

    commit: str
    branch: str
    dirty: bool
    remote: str
    patch: str
    left_out: tuple[str, ...]
    packages: tuple[str, ...]
    python: str
    torch: str
    cuda: str
    device: str
    driver: str
    image: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: float
    dvc_stage: str
    exp_name: str
    exp_baseline: str
    requirements_sha256: str
    dvc_lock_sha256: str

    def tags(self) -> dict[str, str]:
        """Tag name -> value for every part that is known; patch and packages are too long for tags."""
        tags = {
            "git.commit": self.commit,
            "git.branch": self.branch,
            "git.dirty": str(self.dirty).lower() if self.commit else "",
            "git.remote": self.remote,
            "dvc.exp_name": self.exp_name,
            "dvc.exp_baseline": self.exp_baseline,
            "dvc.lock_sha256": self.dvc_lock_sha256,
            "env.lock_sha256": self.requirements_sha256,
            "env.python": self.python,
            "env.torch": self.torch,
            "env.cuda": self.cuda,
            "env.device": self.device,
            "env.driver": self.driver,
            "env.image": self.image,
            "proc.host": self.host,
            "proc.boot": self.boot_id,
            "proc.namespace": self.pid_namespace,
            "proc.pid": str(self.pid),
            "proc.start": f"{self.started:.2f}",
        }
        return {name: value for name, value in tags.items() if value}


def collect(root: Path) -> RunRecord:
    """Record this process; `root` is the checkout it runs in, the folder of dvc.yaml (well below 0.3 s)."""
    top, commit, branch = head(root)
    patch, left_out = code_patch(top) if top else ("", ())
    process = psutil.Process()
    torch_version, cuda = torch_versions()
    return RunRecord(
        commit=commit or os.environ.get("GIT_COMMIT", ""),
        branch=branch,
        dirty=bool(patch),
        remote=without_userinfo(git(root, "config", "--get", "remote.origin.url").strip()),
        patch=patch,
        left_out=left_out,
        packages=installed_packages(),
        python=platform.python_version(),
        torch=torch_version,
        cuda=cuda,
        device=device_name(),
        driver=driver(),
        image=os.environ.get("DRTUNE_IMAGE", ""),
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
        pid=process.pid,
        started=process.create_time(),
        dvc_stage=os.environ.get("DVC_STAGE", ""),
        exp_name=os.environ.get("DVC_EXP_NAME", ""),
        exp_baseline=os.environ.get("DVC_EXP_BASELINE_REV", ""),
        requirements_sha256=sha256_or_empty(root / "requirements.lock"),
        dvc_lock_sha256=sha256_or_empty(root / "dvc.lock"),
    )


def git(root: Path, *arguments: str, seconds: float = GIT_SECONDS) -> str:
    """Standard output of one git command; empty where git, the repository or the time is lacking.

    Bytes that are not UTF-8 come back as surrogates, so that a patch can be written unchanged.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # DVC may be writing the index right now
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
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
    ours = [f":(exclude,top,literal){path}" for path in dvc_outs(top)]
    ours += [f":(exclude,top,glob)**/{name}" for name in NO_CODE]
    secret = [f":(exclude,top,icase,glob)**/{name}" for name in SECRET]
    code = [*(f":(top,glob)**/{name}" for name in CODE), *secret, *ours]
    form = ["--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"]
    patch = git(top, "diff", *form, "HEAD", "--", *code)
    changed, fresh = (
        ("diff", "--name-only", "-z", "HEAD", "--"),
        ("ls-files", "-oz", "--exclude-standard", "--"),
    )
    python = ":(top,glob)**/*.py"
    new = git(top, *fresh, python, *secret).split("\0")[:-1]
    found = (git(top, *changed, ":/", *ours) + git(top, *fresh, python)).split("\0")
    new = [name for name in new if not (ODD.search(name) or (top / name).is_symlink())]
    left_out = {*found} - {"", *git(top, *changed, *code).split("\0"), *new}
    for name in new:
        if len(patch) <= MAX_PATCH_BYTES:
            patch += new_file_patch(top, name)
    if len(patch) > MAX_PATCH_BYTES:
        patch = f"# the difference from HEAD exceeds {MAX_PATCH_BYTES} bytes and is not recorded\n"
    return patch, tuple(sorted(left_out))


def dvc_outs(top: Path) -> list[str]:
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


def new_file_patch(top: Path, name: str) -> str:
    """The patch that adds one text file, in git's form; empty for a file that cannot be read."""
    try:
        with (top / name).open("rb") as stream:
            text = stream.read(MAX_PATCH_BYTES + 1).decode("utf-8", "surrogateescape")
        mode = "100755" if os.access(top / name, os.X_OK) else "100644"
    except OSError:
        return ""
    patch = f"diff --git a/{name} b/{name}\nnew file mode {mode}\n"
    if not text:
        return patch
    lines = text.removesuffix("\n").split("\n")
    tab = "\t" if " " in name else ""  # git ends a name that holds spaces with a tab
    patch += f"--- /dev/null\n+++ b/{name}{tab}\n@@ -0,0 +1,{len(lines)} @@\n"
    patch += "".join(f"+{line}\n" for line in lines)
    return patch if text.endswith("\n") else patch + "\\ No newline at end of file\n"


def without_userinfo(address: str) -> str:
    """A git address without `user:password@` and without a query, which may carry a token."""
    if "://" in address:
        scheme, rest = address.split("://", 1)
        host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return re.sub(r"^[^/@]+@(?=[^/]+:)", "", address)


def installed_packages() -> tuple[str, ...]:
    """`name==version` of every installed distribution, read from folder names (10 times faster)."""
    found = set()
    for folder in map(Path, filter(os.path.isdir, sys.path)):
        for path in [*folder.glob("*.dist-info"), *folder.glob("*.egg-info")]:
            name, dash, version = path.name.rsplit(".", 1)[0].partition("-")
            if dash:
                found.add(f"{name.replace('_', '-').lower()}=={version}")
    return tuple(sorted(found))


def torch_versions() -> tuple[str, str]:
    """Versions of PyTorch and of its CUDA; never imports it, since a light stage may do without."""
    if "torch" in sys.modules:
        module = sys.modules["torch"]
        return str(module.__version__), str(module.version.cuda or "")
    try:
        return importlib.metadata.version("torch"), ""
    except importlib.metadata.PackageNotFoundError:
        return "", ""


def device_name() -> str:
    """Names of the GPUs of this machine, else of its CPU, without starting CUDA."""
    if names := cards():
        return "; ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        cpu = None
    return cpu[1] if cpu else platform.processor() or platform.machine()


def sha256_or_empty(path: Path) -> str:
    """SHA-256 of a file, or empty text where there is none."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
