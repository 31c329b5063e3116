import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.errors import BankError, ConfigError
from drtune.base.seeding import generator
from drtune.base.settings import Params
from drtune.base.yaml import read_yaml
from drtune.data.batch import Batch
from drtune.methods.lp_ft.method import LPFT
from drtune.methods.lp_ft.settings import LPFTSettings
from drtune.params import SETTINGS, load, parse
from drtune.training.fit import set_start
from drtune.training.settings import TrainSettings

FILE = Path(__file__).resolve().parents[3] / "params.yaml"
TRAIN = load(FILE)[TrainSettings]
CPU = torch.device("cpu")
OFFICIAL = {"head_init": "bank", "batch_norm": "eval"}


def settings_with(train=None, **own) -> Params:
    """params.yaml with `train.method: lp_ft`, keys of train changed and those that the method replaces."""
    raw = copy.deepcopy(read_yaml(FILE))
    raw["train"] |= {"method": "lp_ft"} | (train or {})
    raw["methods"]["lp_ft"] = {"train": {key: value for key, value in (OFFICIAL | own).items() if value}}
    return parse(raw, "params.yaml", SETTINGS)


def toy():
    """A classifier, a bank of its features of 30 images of 3 classes, and validation batches."""
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), 8, 3)
    labels = torch.arange(30) % 3
    images = torch.randn(30, 3, 2, 2, generator=generator(0)) + labels.view(-1, 1, 1, 1)
    with torch.no_grad():
        features = model.encoder(images)[None]
    header = BankHeader(
        backbone="toy", weights_sha256="w", data_sha256="d", transform="{}", views=1, augmented=False,
        augment_seed=0, dtype="float32",
    )  # fmt: skip
    bank = FeatureBank.from_tensors(features, labels, [str(i) for i in range(30)], header)
    index = torch.arange(30)
    return model, bank, Batch(images, labels, index, torch.zeros_like(index))


def slow_cross_entropy(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits.detach().tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        for c, value in enumerate(row):
            target = (1 - smoothing) * (c == label) + smoothing / len(row)
            total -= target * (value - norm)
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_objective_is_the_mean_cross_entropy_on_all_parameters(smoothing):
    model, _, batch = toy()
    method = LPFT(LPFTSettings(), TRAIN.model_copy(update={"label_smoothing": smoothing}))
    terms = method.loss(model, batch).weighted
    assert list(terms) == ["cross_entropy"]
    expected = slow_cross_entropy(model(batch.images).logits, batch.labels, smoothing)
    assert abs(terms["cross_entropy"].item() - expected) < 1e-5
    terms["cross_entropy"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert method.trains == "all"


def test_its_settings_replace_those_of_train_and_of_no_other_method():
    start = {"head_init": "normal", "batch_norm": "train"}
    train = settings_with(start)[TrainSettings]
    assert (train.head_init, train.batch_norm) == ("bank", "eval")
    train = settings_with(start, batch_norm=None)[TrainSettings]
    assert (train.head_init, train.batch_norm) == ("bank", "train")
    train = settings_with(start | {"method": "finetune"})[TrainSettings]
    assert (train.head_init, train.batch_norm) == ("normal", "train")


@pytest.mark.parametrize("other", ["normal", "zero"])
def test_another_start_of_the_head_is_a_fault(other):
    text = f"train.head_init +expected 'bank', got '{other}'.*set methods.lp_ft.train.head_init: bank"
    with pytest.raises(ConfigError, match=f"  methods.lp_ft.{text}"):
        settings_with(head_init=other)
    with pytest.raises(ConfigError, match=f"  {text}"):
        settings_with({"head_init": other}, head_init=None)
    settings_with({"head_init": "bank"}, head_init=None)


def test_an_unknown_mode_of_batch_norm_is_a_fault():
    with pytest.raises(
        ConfigError,
        match="methods.lp_ft.train.batch_norm +expected 'train', 'eval' or 'converted'.*'valmode'",
    ):
        settings_with(batch_norm="valmode")


def test_training_starts_from_the_solved_probe_and_needs_the_bank():
    model, bank, batch = toy()
    params = settings_with({"head_init": "normal", "lr_head_unit": "absolute"})
    with pytest.raises(BankError, match="head_init: bank needs the feature bank.*dvc repro extract"):
        set_start(model, params[TrainSettings], None, [batch], CPU)
    before = copy.deepcopy(model.encoder.state_dict())
    _, record = set_start(model, params[TrainSettings], bank, [batch], CPU)
    assert record["epoch"] == 0
    assert (model(batch.images).logits.argmax(1) == batch.labels).float().mean() > 0.9
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
