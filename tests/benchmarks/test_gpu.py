"""benchmarks.gpu in tiny form on the CPU, so that it works the first time a card is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import SHARES, summary

ROOT = Path(__file__).resolve().parents[2]
NEEDLESS = ("mlflow", "dvc", "optuna", "ruamel", "typer", "rich", "matplotlib", "pandas")
PARTS = ("checks", "steps", "inputs")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    command = ["-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--minutes", "20", "--out", str(folder)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def found(out, part):
    result = json.loads((out / f"{part}.json").read_text())
    assert "fault" not in result, result
    return result["found"]


def test_every_check_holds_on_the_cpu_too(out):
    checks = found(out, "checks")
    assert {name: result.get("fault") for name, result in checks.items() if not result["ok"]} == {}
    assert {"dr_tune trains", "dr_tune learns in bf16", "rotation, K > D"} <= set(checks)
    assert checks["goes on after a kill"]["greatest_difference"] == 0


def test_steps_are_compared_with_a_plain_one_in_both_precisions(out):
    steps = found(out, "steps")
    assert [title.split(", ")[1] for title in steps] == ["bf16", "float32"]
    for rows in steps.values():
        assert rows["plain fine-tuning"]["of_plain"] == [1.0, 1.0, 1.0]
        assert rows["official cost / ours"][1] > 0


def test_extraction_and_epoch_name_both_contenders(out):
    assert found(out, "extraction")["ours_of_timm"] > 0
    epoch = found(out, "epoch")
    for who in ("ours", "timm"):
        assert epoch[who]["images_per_second"] > 0
        assert 0 <= epoch[who]["waiting_share"] <= 1


def test_what_needs_cuda_says_so_and_the_summary_has_every_part(out):
    assert "CUDA" in found(out, "waits")["skipped"]
    assert "CUDA" in found(out, "memory")["skipped"]
    text = (out / "summary.md").read_text()
    assert text == summary(out)
    assert all(f"- {part}: " in text for part in SHARES)
    count = len(found(out, "checks"))
    assert f"## Checks: {count} of {count} held" in text


def test_a_part_that_fails_says_why_in_its_file(tmp_path):
    command = ["-m", "benchmarks.gpu", "--tiny", "--device", "cuda", "--part", "steps", "--out"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path)], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert "Traceback" in json.loads((tmp_path / "steps.json").read_text())["fault"]
    assert "steps: " in summary(tmp_path)


def test_it_runs_where_neither_tracker_nor_dvc_is_installed():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NEEDLESS}));"
        f"import importlib; [importlib.import_module('benchmarks.gpu.' + part) for part in {PARTS}]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
