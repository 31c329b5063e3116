"""A stage of the toy project: all that a stage script does around its work, without PyTorch."""

import json
import os
from pathlib import Path

from ruamel.yaml import YAML

from drtune.runs.holdings import holding
from drtune.runs.mlflow_run import stage_run
from drtune.runs.record import collect
from drtune.runs.stage_key import current_stage_key

FACTOR = 1


def numbers():
    """What `make` reads, multiplied by the setting and by the code."""
    scale = YAML(typ="safe", pure=True).load(Path("params.yaml"))["scale"]
    return [FACTOR * scale * number for number in json.loads(Path("data/raw/numbers.json").read_text())]


def main():
    """Run the stage that DVC_STAGE names."""
    here, stage = Path.cwd(), os.environ["DVC_STAGE"].rpartition(":")[2]
    identity, record = current_stage_key(here, stage), collect(here)
    with stage_run("drtune", stage, record, identity) as run, holding(run, record, identity, here, stage):
        if stage == "fetch":
            Path("data/raw").mkdir(parents=True, exist_ok=True)
            Path("data/raw/numbers.json").write_text(Path("source.json").read_text())
            return
        result = numbers()
        if result[0] < 0:
            raise ValueError("negative")
        run.log_metrics({"first": result[0]})
        Path("out").mkdir(exist_ok=True)
        Path("out/result.json").write_text(json.dumps(result))
        Path("score.json").write_text(json.dumps({"first": result[0], "noise": Path("noise").read_text()}))


if __name__ == "__main__":
    main()
