"""Fill every open GPU figure: python -m benchmarks.gpu --minutes 8 --out DIR

Each part runs in a process of its own, for at most its share of the time, and writes DIR/PART.json as it
goes; one that fails or hangs ends none of the others. It needs torch, torchvision, timm, accelerate,
scikit-learn, safetensors, pyarrow and pydantic, but no DVC, no MLflow and no data: images and weights are
made here.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARES = {"checks": 0.20, "waits": 0.09, "steps": 0.33, "memory": 0.13, "extraction": 0.10, "epoch": 0.15}
"""Of the time, in order of worth."""


def main() -> None:
    """Run all parts, or one of them as a child of itself, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="at most, all parts together")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    parser.add_argument("--part", choices=list(SHARES), help="only this one, in this process")
    parser.add_argument("--seconds", type=float, default=60.0, help="of that part")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part:
        run_part(given.part, given.out, given.device, given.tiny, given.seconds)
        return
    run_all(given)
    text = summary(given.out)
    (given.out / "summary.md").write_text(text)
    print(text, flush=True)


def run_all(given: argparse.Namespace) -> None:
    """Each part in a process; what one leaves of its time goes to the next ones."""
    end = time.monotonic() + 60 * given.minutes
    write(given.out / "machine.json", machine(given.device))
    left = dict(SHARES)
    for part, share in SHARES.items():
        seconds = (end - time.monotonic()) * share / sum(left.values())
        del left[part]
        own = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--seconds", str(0.85 * seconds)]
        further = ["--out", str(given.out), "--device", given.device] + ["--tiny"] * given.tiny
        print(f"{part}: at most {seconds:.0f} s", flush=True)
        try:
            done = subprocess.run([*own, *further], timeout=seconds, check=False)
            if done.returncode:
                note(given.out, part, f"ended with {done.returncode}")
        except subprocess.TimeoutExpired:
            note(given.out, part, f"stopped after {seconds:.0f} s")


def run_part(part: str, out: Path, device: str, small: bool, seconds: float) -> None:
    """Run one part in this process and write what it finds."""
    start = time.monotonic()
    path = out / f"{part}.json"

    def save(found: Any) -> None:
        write(path, {"found": found, "seconds": round(time.monotonic() - start, 1)})

    try:
        import torch

        from benchmarks.gpu import scene

        make = scene.tiny if small else scene.full
        save(part_of(part)(make(torch.device(device), start + seconds, save)))
    except BaseException:
        note(out, part, traceback.format_exc()[-3000:])
        raise


def part_of(name: str) -> Callable[[Any], Any]:
    """The function of a part; imported late, so that one that cannot be imported ends itself alone."""
    if name == "checks":
        from benchmarks.gpu import checks

        return checks.run
    if name in ("extraction", "epoch"):
        from benchmarks.gpu import inputs

        return {"extraction": inputs.extraction, "epoch": inputs.epoch}[name]
    from benchmarks.gpu import steps

    return {"waits": steps.waits, "steps": steps.cost, "memory": steps.memory}[name]


def machine(device: str) -> dict[str, Any]:
    """Card, driver and versions."""
    import timm
    import torch

    from drtune.base.device import about_device
    from drtune.base.runtime import processors

    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "processors": processors(),
    }
    return about | about_device(torch.device(device))


def write(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read JSON; empty where there is none."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def note(out: Path, part: str, fault: str) -> None:
    """Add to a part's file why it ended early."""
    path = out / f"{part}.json"
    write(path, read(path) | {"fault": fault})


def summary(out: Path) -> str:
    """A Markdown page of what was found."""
    about = read(out / "machine.json")
    lines = ["# GPU figures", "", ", ".join(f"{name} {value}" for name, value in about.items()), ""]
    parts = {part: read(out / f"{part}.json") for part in SHARES}
    for part, result in parts.items():
        state = "not run" if not result else f"{result.get('seconds', '?')} s"
        lines.append(
            f"- {part}: {state}" + (f"; {result['fault'].splitlines()[-1]}" if "fault" in result else "")
        )
    checks = parts["checks"].get("found", {})
    held = [name for name, result in checks.items() if result["ok"]]
    lines += ["", f"## Checks: {len(held)} of {len(checks)} held"]
    lines += [f"- **{name}**: {r['fault'].splitlines()[0]}" for name, r in checks.items() if not r["ok"]]
    lines += ["", "## A step (first quartile, median, third quartile of the ratio to a plain one)"]
    for title, rows in parts["steps"].get("found", {}).items():
        lines += ["", f"### {title}", "| | ms | of plain | peak MiB |", "|---|---|---|---|"]
        peaks = parts["memory"].get("found", {}).get(title, {})
        for name, row in rows.items():
            if isinstance(row, dict):
                ratio = " ".join(f"{value:.3f}" for value in row["of_plain"])
                lines.append(f"| {name} | {row['milliseconds']} | {ratio} | {peaks.get(name, '')} |")
            else:
                lines.append(f"| {name} | | {' '.join(f'{value:.3f}' for value in row)} | |")
    for part, title in (("waits", "Waits for the device"), ("extraction", "Extraction"), ("epoch", "Epoch")):
        lines += ["", f"## {title}", "```", json.dumps(parts[part].get("found", {}), indent=1), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
