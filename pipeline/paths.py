"""Each file that a stage reads or writes, named once; relative to the folder that holds dvc.yaml."""

from pathlib import Path

from drtune.runs.stage_key import store_root

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
DATASET = Path("data/dataset")
BANK = Path("data/bank/bank.safetensors")
MODEL = Path("models")
HISTORY = MODEL / "history.json"
ENCODER = Path("encoder.safetensors")
METRICS = Path("metrics.json")
REPORTS = Path("reports")


def downloads() -> Path:
    """Archives fetched from their publishers; kept beside the store, so experiments share them."""
    return store_root() / ".drtune" / "downloads"


def checkpoints(stage_key: str) -> Path:
    """Running state of one training; outside DVC's outputs, which DVC removes before a stage."""
    return store_root() / ".drtune" / "ckpt" / stage_key
