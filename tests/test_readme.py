"""The first figures that a reader sees are those of the committed metrics."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_run_prints_the_committed_metrics():
    start = (ROOT / "README.md").read_text().split("What it brings")[0]
    chosen = json.loads((ROOT / "metrics/validation.json").read_text())
    test = json.loads((ROOT / "metrics/test.json").read_text())["test"]
    assert (
        f"kept epoch {chosen['best_epoch']}, validation accuracy {chosen['val_accuracy']:.4f}\n"
        f"dr_tune: test accuracy {test['accuracy']:.4f} (95 % interval {test['accuracy_low']:.4f} to "
        f"{test['accuracy_high']:.4f}, n = {test['n']})"
    ) in start


def test_own_images_are_one_command_on_the_first_screen():
    first = (ROOT / "README.md").read_text().splitlines()[:40]
    assert any(line.startswith("$ git clone") for line in first[:12])
    assert any(line.startswith("$ dvc exp run -S data.source=") for line in first)


def test_the_walks_name_files_that_are_there_and_count_them():
    walks = (ROOT / "CONTRIBUTING.md").read_text().split("## Three walks")[1].split("\n## ")[0]
    for walk in re.split(r"\n\d\. ", walks)[1:]:
        files = set(re.findall(r"`([\w/]+\.py)`", walk))
        assert all((ROOT / "drtune" / file).is_file() for file in files)
        assert f"{len(files)} files" in walk
