"""Kill `dvc repro` at random moments until it is done, and compare everything with an undisturbed run.

    python tests/kill_pipeline.py --kills 20 [--seed 0] [--folder /tmp/kills]

Each kill is SIGKILL to `dvc`, to the stage, or to both, and the next `dvc repro` follows at once. When the
pipeline ends, the outs and metrics must be the undisturbed bytes, every stage must have one FINISHED run and
none left RUNNING, and every metric history the undisturbed steps and values. Then a fresh project begins,
until all kills are spent. Takes about a minute a kill; not part of the test suite.
"""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ["drtune", "pipeline", "catalog", "dvc.yaml", "numbers.lock", ".gitignore", ".dvcignore"]
NEEDED += [".dvc/config", ".dvc/.gitignore"]
SETTINGS = {
    "data": {"shots": 2, "val_fraction": 0.05, "test_fraction": 0.05},
    "backbone": {
        "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "weights": "catalog/random.yaml",
        "image_size": 32,
    },
    "extract": {"batch_size": 8},
    "train": {"epochs": 40, "batch_size": 8, "batch_norm": "train", "head_init": "normal"},
    "evaluate": {"bootstrap": 100},
    "runtime": {"device": "cpu", "threads": 1},
}
UNEQUAL = ("system/", "images_per_second", "peak_")
"""Metrics of the machine, not of the result."""
STAGES = ["download", "evaluate", "extract", "train"]
EVERY_RUN = "select run_uuid, name, status from runs where lifecycle_stage = 'active' order by start_time"


def environment(folder: Path) -> dict[str, str]:
    """That of this process without DVC's and MLflow's variables; git knows a committer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    who = {
        f"GIT_{role}_{part}": "a@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {
        "PATH": path,
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }
    return kept | who | own


def project(folder: Path) -> Path:
    """A repository with this code and small settings."""
    for name in NEEDED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in SETTINGS.items():
        params[section].update(values)
    params["methods"]["dr_tune"]["bank_size"] = 16
    yaml.dump(params, folder / "params.yaml")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "code"]):
        subprocess.run(["git", *command], cwd=folder, env=environment(folder), check=True)
    return folder


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """`dvc repro` in a session of its own, as a terminal would start it."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            ["dvc", "repro"],
            cwd=folder,
            env=environment(folder),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes], victim: str) -> str:
    """SIGKILL to the victim; returns what was running."""
    dvc = psutil.Process(process.pid)
    stages = [child for child in dvc.children(recursive=True) if "pipeline" in child.cmdline()]
    named = [child.cmdline()[-1] for child in stages][:1]
    if victim != "dvc":
        for child in stages:
            child.kill()
    if victim != "stage" or not stages:
        dvc.kill()
    process.wait()
    return named[0] if named else "between stages"


def result(folder: Path) -> tuple[dict[str, str], str]:
    """Path -> md5 of all outs, and the text of metrics/."""
    stages = YAML(typ="safe", pure=True).load(folder / "dvc.lock")["stages"]
    outs = {out["path"]: out["md5"] for entry in stages.values() for out in entry["outs"]}
    return outs, "".join(path.read_text() for path in sorted((folder / "metrics").iterdir()))


def histories(folder: Path) -> tuple[list[tuple[str, str]], dict[tuple[str, str], list[tuple[int, float]]]]:
    """(stage, status) of every run, and (stage, metric) -> (step, value) in order of step."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        runs = store.execute(EVERY_RUN).fetchall()
        for run, name, status in runs:
            query = "select key, step, value from metrics where run_uuid = ? order by step"
            for key, step, value in store.execute(query, (run,)):
                if status == "FINISHED" and name.split()[0] in STAGES and not key.startswith(UNEQUAL):
                    points.setdefault((name.split()[0], key), []).append((step, value))
    return [(name.split()[0], status) for _, name, status in runs], points


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """What is not as in the undisturbed project, in words."""
    subprocess.run(
        [sys.executable, "-c", "from drtune.cli.main import app; app()", "sync"],
        cwd=folder,
        env=environment(folder),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    faults = [] if result(folder) == result(undisturbed) else ["outs or metrics differ"]
    (runs, points), (_, wanted) = histories(folder), histories(undisturbed)
    for stage in STAGES:
        if runs.count((stage, "FINISHED")) != 1:
            faults.append(f"{stage}: {runs.count((stage, 'FINISHED'))} FINISHED runs")
    whole = [status for name, status in runs if name not in STAGES]
    faults += [] if whole == ["FINISHED"] else [f"pipeline runs: {whole}"]
    faults += [f"{stage} is {status}" for stage, status in runs if status == "RUNNING"]
    for name in wanted.keys() | points.keys():
        if points.get(name) != wanted.get(name):
            have, want = points.get(name, []), wanted.get(name, [])
            faults.append(f"{name}: {len(have)} points, undisturbed {len(want)}")
    return faults + [f"extra run: {run}" for run in runs if run[1] not in ("FINISHED", "RUNNING")]


def main() -> int:
    """Spend the kills; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    top = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    rng, spent, faults, round_ = random.Random(given.seed), 0, [], 0
    undisturbed, log = project(top / "undisturbed"), top / "log"
    began = time.monotonic()
    if start(undisturbed, log).wait() != 0:
        print(f"the undisturbed run failed, see {log}")
        return 1
    length = time.monotonic() - began
    print(f"undisturbed: {length:.0f} s; logs in {log}", flush=True)
    while spent < given.kills:
        round_ += 1
        folder = project(top / f"disturbed {round_}")
        while True:
            process = start(folder, log)
            with suppress(subprocess.TimeoutExpired):
                if spent < given.kills:
                    process.wait(rng.uniform(0.02, 0.7) * length)
                else:
                    process.wait()
            if process.poll() is None:
                victim = rng.choice(["dvc", "stage", "both"])
                with suppress(psutil.NoSuchProcess):
                    during = kill(process, victim)
                    spent += 1
                    print(f"kill {spent}: {victim} during {during}", flush=True)
            elif process.returncode == 0:
                break
            else:
                faults.append(f"dvc repro ended with {process.returncode}")
                print(faults[-1], flush=True)
                if process.returncode != -signal.SIGKILL and len(faults) > 5:
                    return 1
        found = differences(folder, undisturbed)
        faults += found
        print(f"project {round_}: " + ("as undisturbed" if not found else "; ".join(found)), flush=True)
    print(f"{spent} kills, {round_} projects, {len(faults)} faults, {time.monotonic() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
