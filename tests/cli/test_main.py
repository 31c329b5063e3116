import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from drtune.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_is_there():
    result = CliRunner().invoke(app, ["--help"])
    names = ("check", "runs", "restore", "verify", "sync", "doctor", "gc", "model", "study")
    assert all(f" {name} " in result.output for name in names)


def test_help_imports_nothing_heavy():
    heavy = ("torch", "timm", "mlflow", "optuna", "dvc", "pydantic")
    code = f"import sys, drtune.cli.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
