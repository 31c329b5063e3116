"""The NVIDIA GPUs of this machine, found without PyTorch and without starting CUDA."""

import glob
import os
import re
import subprocess
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia")
SECONDS = 3.0


def cards() -> list[str]:
    """The name of each GPU; none where CUDA_VISIBLE_DEVICES hides all of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return []
    names: list[str] = []
    for path in glob.glob(f"{NVIDIA}/gpus/*/information"):
        names += re.findall(r"^Model:\s*(.+)$", Path(path).read_text(errors="replace"), re.MULTILINE)
    return names or asked("name")


def driver() -> str:
    """The version of NVIDIA's driver; empty where there is none."""
    try:
        found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", (NVIDIA / "version").read_text(errors="replace"))
    except OSError:
        found = None
    return found[1] if found else "".join(asked("driver_version")[:1])


def asked(what: str) -> list[str]:
    """What nvidia-smi says of each GPU, for containers that show none under /proc."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
