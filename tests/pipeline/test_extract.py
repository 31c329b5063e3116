import pytest
import torch
from safetensors.torch import save_file

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


def test_a_published_layout_gives_the_features_of_the_plain_state_and_the_bank_says_what_was_taken(
    stage, capsys
):
    download.main(*stage())
    state = dict(build_backbone(stage().params[BackboneSettings]).encoder.state_dict())
    theirs = {f"module.encoder_q.{key}": value for key, value in state.items()}
    theirs |= {f"module.encoder_k.{key}": value + 1 for key, value in state.items()}
    torch.save({"epoch": 200, "state_dict": theirs | {"module.queue": torch.rand(4, 8)}}, "moco.pth.tar")
    save_file({key: value.contiguous() for key, value in state.items()}, "plain.safetensors")
    banks = {}
    for weights in ("moco.pth.tar", "plain.safetensors"):
        given = {
            "backbone.weights": weights,
            "backbone.interpolation": "bilinear",
            "backbone.crop_fraction": 0.875,
        }
        extract.main(*stage({**given, "extract.dtype": "float32"}))
        bank = open_bank(paths.BANK)
        banks[weights] = bank.rows(torch.zeros(18, dtype=torch.long), torch.arange(18)), bank.header
    (rows, header), (plain, other) = banks.values()
    assert torch.equal(rows, plain)
    assert (header.weights_sha256, header.transform) == (other.weights_sha256, other.transform)
    assert header.weights.startswith(
        "weights: moco.pth.tar read as MoCo, PCL, HCSC, DenseCL at state_dict.module."
    )
    assert "left out: state_dict.module.encoder_k, state_dict.module.queue; input as MoCo" in header.weights
    assert header.weights in capsys.readouterr().out.splitlines()


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
