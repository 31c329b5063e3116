from pathlib import Path

from ruamel.yaml import YAML

from pipeline import paths

ROOT = Path(__file__).resolve().parents[2]


def outs(file):
    stages = YAML(typ="safe").load(ROOT / file)["stages"].values()
    names = [name for stage in stages for name in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return {Path(next(iter(name)) if isinstance(name, dict) else name) for name in names}


def test_dvc_yaml_names_the_same_files():
    written = {paths.DATASET, paths.BANK.parent, paths.MODEL, paths.VALIDATION, paths.TEST, paths.REPORTS}
    assert outs("dvc.yaml") == written
    plots = YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
    drawn = {
        Path(file) for plot in plots if isinstance(plot, dict) for file in next(iter(plot.values()))["y"]
    }
    assert drawn == {paths.HISTORY}
