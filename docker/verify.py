"""Run the pipeline outside and inside an image and compare every out byte for byte; `make docker-verify`.

Both run on CPU in a fresh clone of HEAD, with the same number of threads, the one inside without a network.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml  # type: ignore[import-untyped]


def outs(lock: Path) -> dict[str, str]:
    """Path -> md5 of every out that a dvc.lock names, metrics included."""
    stages = yaml.safe_load(lock.read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def table(outside: dict[str, str], inside: dict[str, str]) -> str:
    """One line an out: its md5 on either side, and whether they agree."""
    return "\n".join(
        f"{'identical' if outside.get(path) == inside.get(path) else 'DIFFERENT'}  {path:16s}  "
        f"outside {outside.get(path, '-'):36s}  inside {inside.get(path, '-')}"
        for path in sorted(outside | inside)
    )


def main(image: str) -> int:
    """0 where all agree, 1 where not; another exit code of a failing step ends it."""
    settings = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
    settings["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with tempfile.TemporaryDirectory(prefix="drtune-verify-") as folder:
        for side in ("outside", "inside"):
            subprocess.run(["git", "clone", "--quiet", ".", f"{folder}/{side}"], check=True)
        subprocess.run(["dvc", "repro"], cwd=f"{folder}/outside", env=own | settings, check=True)
        who = ["--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{folder}/inside:/workspace"]
        given = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        subprocess.run(["docker", "run", "--rm", "--network", "none", *who, *given, image], check=True)
        found = [outs(Path(folder, side, "dvc.lock")) for side in ("outside", "inside")]
    print(table(*found))
    return int(found[0] != found[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
