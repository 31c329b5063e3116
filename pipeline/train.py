"""Stage 3: train one method; the epoch is chosen on validation."""

from drtune.params import SETTINGS
from drtune.runs.runner import Stage, run_stage
from drtune.training.settings import TrainSettings
from pipeline import paths
from pipeline.outputs import log_result, log_settings, save
from pipeline.training import trained


def main(stage: Stage) -> None:
    """Write `models/model.safetensors`, `models/model.json` and `models/history.json`."""
    log_settings(stage.run, stage.params)
    fitted = trained(stage)
    save(fitted, stage.params, paths.MODEL)
    log_result(stage.run, fitted, paths.MODEL)
    kept, best = fitted.progress.best_epoch, fitted.progress.best
    epoch = f"kept epoch {kept}" + ("" if kept else " (the start, untrained)")
    method = stage.params[TrainSettings].method
    print(f"{method}: {epoch}, validation accuracy {best['val_accuracy']:.4f}")


if __name__ == "__main__":
    run_stage("train", main, SETTINGS)
