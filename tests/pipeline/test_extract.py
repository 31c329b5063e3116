import pytest
import torch

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.bank import open_bank
from drtune.base.errors import BankError, DataError
from drtune.data.packed import Split, open_split
from drtune.data.transforms import eval_transform
from pipeline import download, extract, paths


def test_the_bank_holds_what_the_frozen_backbone_says_of_each_image(stage, capsys):
    made = stage()
    download.main(*made)
    extract.main(*made)
    bank, train = open_bank(paths.BANK), open_split(paths.DATASET, Split.TRAIN)
    backbone = build_backbone(made.params[BackboneSettings])
    transform = eval_transform(backbone.spec)
    images = torch.stack([transform(train.image(row)) for row in range(len(train))])
    with torch.no_grad():
        expected = backbone.encoder.eval()(images)
    rows = bank.rows(torch.zeros(len(train), dtype=torch.long), torch.arange(len(train)))
    torch.testing.assert_close(rows, expected, rtol=2e-3, atol=2e-3)
    assert bank.labels.tolist() == train.labels.tolist()
    assert bank.ids == train.ids
    assert "bank: 18 images x 16 features, 1 view, float16, " in capsys.readouterr().out


def test_the_run_learns_settings_and_speed(stage):
    made = stage({"extract.views": 2, "extract.dtype": "float32"})
    download.main(*made)
    extract.main(*made)
    assert open_bank(paths.BANK).views == 2
    assert made.run.params["extract"]["views"] == 2
    assert made.run.params["backbone"]["weights"].endswith("catalog/random.yaml")
    assert made.run.names >= {"images_per_second", "rows", "views"}
    values, _ = made.run.metrics[-1]
    assert (values["rows"], values["views"]) == (18, 2)
    assert values["images_per_second"] > 0


def test_without_data_nothing_is_written(stage):
    with pytest.raises(DataError, match=r"not a packed data set.*run `dvc repro download`"):
        extract.main(*stage())
    assert not paths.BANK.parent.exists()


def test_features_that_are_not_finite_leave_the_last_bank_as_it_was(stage, monkeypatch):
    made = stage()
    download.main(*made)
    extract.main(*made)
    before = paths.BANK.read_bytes()

    def broken(settings):
        backbone = build_backbone(settings)
        with torch.no_grad():
            next(backbone.encoder.parameters()).fill_(torch.nan)
        return backbone

    monkeypatch.setattr(extract, "build_backbone", broken)
    with pytest.raises(BankError, match="not finite"):
        extract.main(*made)
    assert paths.BANK.read_bytes() == before
