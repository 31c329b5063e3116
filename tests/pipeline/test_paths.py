from pathlib import Path

from ruamel.yaml import YAML

from pipeline import paths

ROOT = Path(__file__).resolve().parents[2]


def outs(file):
    stages = YAML(typ="safe").load(ROOT / file)["stages"].values()
    names = [name for stage in stages for name in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return {Path(next(iter(name)) if isinstance(name, dict) else name) for name in names}


def test_dvc_yaml_names_the_same_files():
    assert outs("dvc.yaml") == {paths.DATASET, paths.BANK.parent, paths.MODEL, paths.REPORTS, paths.METRICS}
    assert outs("pretrain/dvc.yaml") == {paths.DATASET, paths.MODEL, paths.ENCODER}
    plots = YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"]
    drawn = {
        Path(file) for plot in plots if isinstance(plot, dict) for file in next(iter(plot.values()))["y"]
    }
    assert drawn == {paths.HISTORY}


def test_what_outlives_a_stage_lies_in_the_store_root(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert paths.downloads() == tmp_path / ".drtune/downloads"
    assert paths.checkpoints("ab12") == tmp_path / ".drtune/ckpt/ab12"


def test_a_temporary_experiment_shares_them_with_its_workspace(tmp_path, monkeypatch):
    (tmp_path / "temporary/.dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "workspace"))
    assert paths.downloads() == tmp_path / "workspace/.drtune/downloads"
    assert paths.checkpoints("ab12") == tmp_path / "workspace/.drtune/ckpt/ab12"


def test_outside_dvc_they_lie_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.checkpoints("by-hand-train") == tmp_path / ".drtune/ckpt/by-hand-train"
