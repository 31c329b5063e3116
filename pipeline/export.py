"""Write the encoder of the finished model as a file for `backbone.weights`; the last stage of pretrain/."""

from drtune.backbones.model_file import export_encoder
from drtune.runs.runner import Stage, run_stage
from pipeline import paths


def main(stage: Stage) -> None:
    """Write `encoder.safetensors`."""
    export_encoder(paths.MODEL, paths.ENCODER)
    stage.run.log_artifact(paths.ENCODER)


if __name__ == "__main__":
    run_stage("export", main)
