"""Crash at every change that stages and commands make on the disk or in the store, go on, and compare.

    make crash-check                       all points
    python tests/crash/check.py --one-in 10 [--seed 0] [--only train] [--modes kill,full]

One run counts the points: every file made, written, flushed, renamed or removed, every commit to the store.
Then, at each: the process is killed there (`kill`), killed when half of the write is done (`tear`), the disk
is full from there on (`full`), or that one call fails with EIO (`broken`); in `clock` it is killed and the
clock is back by a day afterwards. The same command again, `drtune sync` and `drtune gc` must then leave what
an undisturbed project has: the bytes of the outs, the runs, their parameters, metric histories and artifacts,
and no other file. Where the process was not killed it must not have shown a traceback.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHIM = "crash.so"
DAY = 86400
STAGES = {"download": "data/dataset", "extract": "data/bank", "train": "models", "evaluate": "reports"}
"""Each with the out that DVC removes before it."""
MODES = ("kill", "tear", "full", "broken", "clock")


@dataclass(frozen=True)
class Scenario:
    """A command that is disturbed.

    Attributes:
        name: shown.
        state: of the project before.
        command: a Python module and its arguments.
        again: the command that goes on; the same unless given.
        out: what DVC removes before a stage.
        modes: of `MODES` that are tried.
        children: how many Python processes the command may start.
        inner: module of that one which is disturbed in place of the command.
        variables: environment.
    """

    name: str
    state: str
    command: tuple[str, ...]
    again: tuple[str, ...] = ()
    out: str = ""
    modes: tuple[str, ...] = MODES
    children: int = 0
    inner: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def preloaded(top: Path) -> None:
    """Start this program again with crash.c loaded, in the environment of a user."""
    from project import environment

    shim = top / SHIM
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, HERE / "crash.c", "-ldl"], check=True)
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv, "--folder", str(top)],
        environment(top) | {"LD_PRELOAD": str(shim)},
    )


def scenarios(folder: Path) -> list[Scenario]:
    """What is disturbed; `folder` is the project."""
    from project import WORKER

    sync, study = ("drtune", "sync"), ("drtune", "study", "run", "--name", "s")
    apply = "drtune", "study", "apply", "s"
    materialize = "drtune", "model", "materialize", "models", "--out", "served"
    return [
        *(
            Scenario(stage, stage, ("pipeline", stage), out=out, variables=in_dvc(folder, stage))
            for stage, out in STAGES.items()
        ),
        Scenario("dvc repro", "train", ("dvc", "repro", "train"), modes=("kill", "clock"), children=2),
        Scenario("sync first", "bare", sync),
        Scenario("sync journals", "unsent", sync),
        Scenario("sync adopted", "unknown", sync),
        Scenario("restore", "done", ("drtune", "restore", "train dr_tune", "--out", "restored")),
        Scenario("gc", "studied", ("drtune", "gc")),
        Scenario("materialize", "done", materialize),
        Scenario("study run", "done", study, children=6),
        Scenario("study worker", "done", study, children=6, inner=WORKER),
        Scenario("study apply", "studied", apply, again=(*apply, "--force")),
    ]


def prepare(project: Any, needed: set[str]) -> None:
    """Make the states that are needed, each from the one before it."""
    from project import STORE_AWAY

    def must(*command: str, children: int = 0, **variables: str) -> None:
        ended = project.run(command, children=children, **variables)
        if ended.code:
            sys.exit(f"{' '.join(command)}: {ended.code}\n{ended.said}")

    def run_stages(save: bool, **variables: str) -> None:
        for stage in STAGES:
            if save:
                project.save(stage)
            must("pipeline", stage, **in_dvc(project.folder, stage), **variables)
            must("dvc", "commit", "-fq", stage)

    project.make()
    project.save("bare")
    must("drtune", "sync")
    project.save("new")
    if needed & {"unsent", "unknown"}:
        run_stages(save=False, **STORE_AWAY)
        project.save("unsent")
        shutil.rmtree(project.folder / ".drtune")
        project.save("unknown")
        project.go_to("new")
    if needed & {*STAGES, "done", "studied"}:
        run_stages(save=True)
        project.commit()
        project.save("done")
    if "studied" in needed:
        must("drtune", "study", "run", "--name", "s", children=6)
        project.commit()
        project.save("studied")


def in_dvc(folder: Path, stage: str) -> dict[str, str]:
    """What DVC tells a stage."""
    return {"DVC_STAGE": stage, "DVC_ROOT": str(folder)}


class Check:
    """Disturbs one scenario after the other."""

    def __init__(self, project: Any) -> None:
        self.project = project

    def run(self, scenario: Scenario, mode: int = 0, point: Any = None, clock: int = 0) -> Any:
        """Run its command."""
        how = mode, point, scenario.inner, scenario.children, clock
        return self.project.run(scenario.command, *how, **scenario.variables)

    def settle(self, scenario: Scenario, clock: int = 0) -> list[str]:
        """Bring the store up to date and free the disk, hours later; faults of these commands."""
        faults = []
        for command in (("drtune", "sync"), ("drtune", "gc")):
            ended = self.project.run(command, clock=clock)
            if ended.code or traces(ended.said):
                faults.append(f"{' '.join(command)} ends with {ended.code}: {last_line(ended.said)}")
            for path in self.project.folder.rglob(".*"):
                if path.is_dir() and not path.is_symlink():
                    os.utime(path, (time.time() - DAY, time.time() - DAY))
        return faults

    def undisturbed(self, scenario: Scenario) -> tuple[dict[str, Any], list[Any]]:
        """What comes of it, and all points."""
        from project import COUNT
        from result import result

        self.project.go_to(scenario.state)
        ended = self.run(scenario, COUNT)
        faults = [] if ended.code == 0 else [f"{ended.code}: {ended.said}"]
        faults += self.settle(scenario)
        if faults:
            sys.exit(f"{scenario.name}, undisturbed: {faults}")
        return result(self.project.folder), ended.points

    def disturbed(
        self, scenario: Scenario, mode: str, point: Any, want: dict[str, Any]
    ) -> tuple[Any, list[str]]:
        """The point that was met (None where it was not) and what is wrong after it."""
        import project as p
        from result import differences, files, result

        self.project.go_to(scenario.state)
        before, clock = files(self.project.folder), -DAY if mode == "clock" else 0
        how = {"kill": p.KILL, "clock": p.KILL, "tear": p.TEAR, "full": p.FULL, "broken": p.BROKEN}[mode]
        ended = self.run(scenario, how, point)
        if not ended.points:
            return None, []
        faults = [f"a traceback: {trace}" for trace in traces(ended.said)]
        for name, content in files(self.project.folder).items():
            if ".half/" not in name and content not in (before.get(name), want["files"].get(name)):
                faults.append(f"half-written: {name}")
        if ended.code or mode == "full":  # on a full disk DVC fails too
            if scenario.out:
                shutil.rmtree(self.project.folder / scenario.out, ignore_errors=True)
            again = self.run(
                replace(scenario, command=scenario.again or scenario.command, inner=""), clock=clock
            )
            if again.code or traces(again.said):
                faults.append(f"again ends with {again.code}: {last_line(again.said)}")
        faults += self.settle(scenario, clock)
        have, told = result(self.project.folder), mode == "broken" and "not recorded" in ended.said
        if told:  # what a disk refused once, and the stage said, its run may lack
            want = {**want, "runs": have["runs"]}
        return ended.points[0], faults + differences(have, want)


def traces(text: str) -> list[str]:
    """What ended each traceback in a text, and where."""
    found = re.findall(r"^Traceback .*?\n((?:[ \n].*\n)*)(.*)", text, re.M)
    return [f"{end[:200]} <- {' <- '.join(re.findall(r', in (.*)', body)[::-1][:8])}" for body, end in found]


def plain(what: str) -> str:
    """A point without what chance puts into its name."""
    return re.sub(r"[0-9a-f]{12,}(-\d+)?|(?<=\.)[a-z0-9_]{8}(?=\.half|/|$)", "*", what)


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:300]


def show(done: int, total: int, began: float, what: str) -> None:
    """A bar on a terminal."""
    if sys.stdout.isatty():
        filled = 30 * done // max(total, 1)
        left = (time.monotonic() - began) / max(done, 1) * (total - done)
        line = f"[{'#' * filled:30}] {done}/{total}  {left / 60:.0f} min left  {what}"
        print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def planned(points: list[Any], modes: list[str], one_in: int, rng: random.Random) -> list[tuple[str, Any]]:
    """(mode, point) of all that is tried."""
    kinds = {"tear": ("write",), "clock": ("rename to", "commit")}
    plan = [(m, point) for m in modes for point in points if point.what.startswith(kinds.get(m, ""))]
    return sorted(rng.sample(plan, -(-len(plan) // one_in)), key=plan.index)


def main() -> int:
    """Try all points; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one-in", type=int, default=1, help="try one point in so many, chosen by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of scenarios, with commas")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--folder", type=Path, default=None, help="is made, and removed at the end")
    given = parser.parse_args()
    if SHIM not in os.environ.get("LD_PRELOAD", ""):
        if given.folder:
            given.folder.mkdir()
        preloaded(given.folder or Path(tempfile.mkdtemp(prefix="crash-")))
    from project import Project, load_modules

    load_modules()
    check, rng, began = Check(Project(given.folder)), random.Random(given.seed), time.monotonic()
    wanted = [s for s in scenarios(check.project.folder) if not given.only or s.name in given.only.split(",")]
    prepare(check.project, {scenario.state for scenario in wanted})
    print(f"prepared in {time.monotonic() - began:.0f} s", flush=True)
    began, tried, wrong, missed = time.monotonic(), 0, 0, 0
    for scenario in wanted:
        want, points = check.undisturbed(scenario)
        modes = [mode for mode in scenario.modes if mode in given.modes.split(",")]
        plan = planned(points, modes, given.one_in, rng)
        print(f"{scenario.name}: {len(points)} points, {len(plan)} tried", flush=True)
        for number, (mode, point) in enumerate(plan):
            show(number, len(plan), began, f"{scenario.name}: {mode} at {point.what}")
            met, faults = check.disturbed(scenario, mode, point, want)
            if met is None:
                missed += 1
                continue
            tried, wrong = tried + 1, wrong + bool(faults)
            where = f"{'other threads' if met.other else 'main thread'} {met.number}: {plain(met.what)}"
            print(f"{'WRONG' if faults else 'ok':5} {scenario.name}: {mode} at {where}", flush=True)
            for fault in faults:
                print(f"      {fault}", flush=True)
    print(f"{tried - wrong} of {tried} points survived, {missed} not met; {time.monotonic() - began:.0f} s")
    shutil.rmtree(given.folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # else a library lists at length what it leaks
