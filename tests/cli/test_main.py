import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from drtune.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def test_check_accepts_the_shipped_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["check", str(ROOT / "params.yaml")])
    assert result.exit_code == 0
    assert "no faults" in result.output


def test_check_lists_every_fault_and_exits_with_2(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(text.replace("  epochs: ", "  epocs: ").replace("  dr_tune:  ", "  dr_tun:  "))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2
    assert "train.epocs      unknown key; did you mean epochs?" in result.output
    assert "train.epochs     is missing; expected an integer >= 1" in result.output
    assert "methods.dr_tun   unknown key; did you mean dr_tune?" in result.output
    assert "params.yaml: 4 faults" in result.output


def test_check_names_paths_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", str(ROOT / "params.yaml")])
    assert result.exit_code == 2
    assert "params.yaml: 2 faults" in result.output
    assert "data.source       'catalog/digits.yaml': no such folder or record" in result.output


def test_help_imports_nothing_heavy():
    heavy = ("torch", "timm", "mlflow", "optuna", "dvc", "pydantic")
    code = f"import sys, drtune.cli.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
