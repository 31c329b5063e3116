"""One crash point in so many; `make crash-check` tries them all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).with_name("check.py")


@pytest.mark.skipif(sys.platform != "linux", reason="crash.c is loaded by Linux's LD_PRELOAD")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for crash.c: apt-get install gcc")
def test_a_tenth_of_the_points_of_a_training_is_survived():
    command = [sys.executable, CHECK, "--one-in", "10", "--only", "train", "--modes", "kill"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    survived, tried = map(int, re.search(r"^(\d+) of (\d+) points survived", done.stdout, re.M).groups())
    assert survived == tried > 15
