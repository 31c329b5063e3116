"""Each file that a stage reads or writes, named once; relative to the folder that holds dvc.yaml."""

from pathlib import Path

DATASET = Path("data/dataset")
BANK = Path("data/bank/bank.safetensors")
MODEL = Path("models")
HISTORY = MODEL / "history.json"
VALIDATION = Path("metrics/validation.json")
TEST = Path("metrics/test.json")
REPORTS = Path("reports")
