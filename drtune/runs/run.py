"""What a stage tells about its run. Nothing here knows MLflow, waits for it, or fails because of it."""

import functools
import getpass
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from drtune.runs.journal import Journal, Shipper
from drtune.runs.naming import MAX_PARAM, MAX_TAG, as_text, cut, encoded, flat, legal_name
from drtune.runs.record import RunRecord
from drtune.runs.store import scrub

log = logging.getLogger(__name__)
P = ParamSpec("P")


def _quiet(method: Callable[Concatenate["StageRun", P], None]) -> Callable[Concatenate["StageRun", P], None]:
    """Report what goes wrong in a method once, instead of raising it: tracking never fails a stage."""

    @functools.wraps(method)
    def wrapped(self: "StageRun", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.report(method.__name__, error)

    return wrapped


class StageRun:
    """One run of a stage, written to its journal, which a shipper, not yet started, carries to the store.

    `where` returns what `link` shows; empty text while the run is in no store.
    """

    def __init__(self, journal: Journal, shipper: Shipper, where: Callable[[], str]) -> None:
        self.journal, self.shipper, self._where = journal, shipper, where
        self._params: dict[str, str] = {}
        self._reported: set[str] = set()
        self._infinite: set[str] = set()

    def begin(self, tags: Mapping[str, str]) -> None:
        """Start shipping beside the work; a continued run gets the tags of this process and runs again."""
        if self.journal.continued:
            self.set_tags({**tags, "drtune.resumed": "1"})
            self._write("status", status="RUNNING")
        self.shipper.start()

    @property
    def link(self) -> str:
        """Where to look at the run: an address, a command to start the page, or the journal's path."""
        return self._where() or f"not in a tracking store yet; journal: {self.journal.path}"

    @_quiet
    def _write(self, kind: str, /, **fields: Any) -> None:
        self.journal.write(kind, **fields)

    @_quiet
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings, nested ones with dotted names. The first value of a name stands, as MLflow has it."""
        texts = {legal_name(name): scrub(as_text(value)) for name, value in flat(params).items()}
        for name, text in texts.items():
            if self._params.setdefault(name, cut(text, MAX_PARAM)) != cut(text, MAX_PARAM):
                self.report(f"parameter {name}", f"is {self._params[name]} already, {text} is not recorded")
        self.journal.write("params", values={name: self._params[name] for name in texts})

    @_quiet
    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at one step; costs microseconds.

        A continued run repeats the steps between its last checkpoint and its end: what the journal already
        holds of a name, up to the last step, is not written again. NaN is stored as NaN. Infinity cannot be
        stored by MLflow (it becomes 1.8e308 and flattens every chart): it stays in the journal, and the tag
        `drtune.infinite.<name>` says at which step it came first since the run was started or continued.
        """
        done, fresh = self.journal.last_step, {legal_name(name): encoded(v) for name, v in values.items()}
        if done:
            fresh = {name: value for name, value in fresh.items() if step > done.get(name, -1)}
        if fresh:
            self.journal.write("metrics", step=int(step), values=fresh)
        for name, value in fresh.items():
            if value in ("inf", "-inf") and name not in self._infinite:
                self._infinite.add(name)
                self.journal.write("tags", values={f"drtune.infinite.{name}": f"{value} at step {step}"})

    def kept(self, name: str) -> None:
        """A file or folder that lies among the journal's files already."""
        self._write("artifact", folder=os.path.dirname(name), name=os.path.basename(name))

    @_quiet
    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file or folder as it is now: it is copied, so it may change or go afterwards."""
        target = self.journal.files / folder / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy2(path, target)
        self.kept(f"{folder}/{path.name}".lstrip("/"))

    @_quiet
    def log_text(self, text: str, name: str) -> None:
        """A text under a name that may hold folders, such as `provenance/code.patch`."""
        target = self.journal.files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        self.kept(name)

    @_quiet
    def log_input(self, path: str, md5: str, context: str) -> None:
        """A data set or bank that was read: its path from the root and its DVC md5, no copy."""
        self.journal.write("input", name=path, path=path, md5=md5, context=context)

    @_quiet
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Facts about the run; a later value replaces an earlier one."""
        values = {legal_name(name): cut(scrub(as_text(value)), MAX_TAG) for name, value in tags.items()}
        self.journal.write("tags", values=values)

    def log_provenance(self, record: RunRecord, root: Path) -> None:
        """Attach what restores the run: params.yaml, dvc.yaml, dvc.lock, the patch and the packages."""
        for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
            if (root / name).is_file():
                self.log_artifact(root / name, "provenance")
        if record.patch:
            self.log_text(record.patch, "provenance/code.patch")
        self.log_text("\n".join(record.packages) + "\n", "provenance/pip-freeze.txt")

    def log_deps(self, deps: Mapping[str, str]) -> None:
        """Path -> md5 of all dependencies: a tag, or an artifact where it is too long for one."""
        text = json.dumps(dict(deps), sort_keys=True)
        if len(text) <= MAX_TAG:
            self.set_tags({"dvc.deps": text})
        else:
            self.log_text(text, "provenance/dvc-deps.json")

    def close(self, status: str, seconds: float) -> bool:
        """Write the final status and ship what is left, for at most so many seconds; has the store all?

        The journal keeps it in any case, until `drtune gc`.
        """
        self._write("status", status=status)
        done = False
        try:
            if not (done := self.shipper.close(seconds)):
                left = "is not shipped completely and is kept; `drtune sync` ships it"
                log.warning("tracking store: %s %s", self.journal.path, left)
            self.journal.close()
            if not self.shipper.is_alive():
                self.journal.release()
        except Exception as error:
            self.report("close", error)
        return done

    def report(self, what: str, problem: object) -> None:
        """Say once that something is not recorded."""
        if what not in self._reported:
            self._reported.add(what)
            log.warning("not recorded: %s: %s", what, scrub(str(problem)))


def run_tags(stage: str, record: RunRecord, key: str) -> dict[str, str]:
    """Tags of every stage run; the `mlflow.` ones fill columns of its page."""
    user = ""
    with suppress(OSError, KeyError):  # a bare user id, as in a container, has no name
        user = getpass.getuser()
    own = {
        "drtune.kind": "stage",
        "drtune.stage": stage,
        "drtune.stage_key": key,
        "drtune.schema": "1",
        "drtune.invocation": record.facts["dvc.exp_name"] or record.commit,
        "mlflow.source.git.commit": record.commit,
        "mlflow.source.name": os.path.basename(sys.argv[0]),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user,
    }
    return {name: scrub(value) for name, value in {**record.facts, **own}.items() if value}
