import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from drtune.backbones.settings import BackboneSettings
from drtune.banks.bank import BankHeader, open_bank
from drtune.banks.extract import bank_identity, extract_bank, training_views
from drtune.banks.settings import ExtractSettings
from drtune.base.errors import BankError
from drtune.data.batch import Batch, on_device
from drtune.data.card import data_sha256
from drtune.data.settings import STANDARD, AugmentSettings
from drtune.data.transforms import InputSpec

CATALOG = Path(__file__).resolve().parents[2] / "catalog"
N, V = 7, 2
IMAGES = torch.randn(V, N, 3, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 3
IDS = [f"{i}.png" for i in range(N)]
CPU = torch.device("cpu")
HEADER = BankHeader(
    backbone="toy", weights_sha256="aa", data_sha256="bb", transform="{}", views=V, augmented=True,
    augment_seed=0, dtype="float32",
)  # fmt: skip


def loaders(images=IMAGES, order=((4, 5, 6), (0, 1), (2, 3))):
    return [
        [Batch(images[v, list(i)], LABELS[list(i)], torch.tensor(i), torch.full((len(i),), v)) for i in order]
        for v in range(V)
    ]


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten(), nn.ReLU())


def test_a_bank_holds_what_the_encoder_says_in_eval_mode(tmp_path):
    network, seen = encoder().train(), []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rate = extract_bank(
        tmp_path / "bank", network, loaders(), HEADER, LABELS, IDS, 20, CPU, lambda *at: seen.append(at)
    )
    assert rate > 0
    assert seen == [(3, 14), (5, 14), (7, 14), (10, 14), (12, 14), (14, 14)]
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    bank = open_bank(tmp_path / "bank")
    network.eval()
    for view in range(V):
        rows = bank.rows(torch.full((N,), view), torch.arange(N))
        torch.testing.assert_close(rows, network(IMAGES[view]).detach())
    assert (bank.ids, bank.header) == (IDS, HEADER)
    assert torch.equal(bank.labels, LABELS)


def test_an_encoder_in_eval_mode_stays_there(tmp_path):
    network = encoder().eval()
    extract_bank(tmp_path / "bank", network, loaders(), HEADER, LABELS, IDS, 20, CPU)
    assert not network.training


def test_features_that_are_not_finite_name_the_sample_and_leave_nothing(tmp_path):
    images = IMAGES.clone()
    images[1, 5, 0, 0, 0] = float("nan")
    network = encoder()
    with pytest.raises(BankError, match=r"1 of 3 features are not finite: '5\.png'"):
        extract_bank(tmp_path / "bank", network, loaders(images), HEADER, LABELS, IDS, 20, CPU)
    assert list(tmp_path.iterdir()) == []
    assert network.training


BACKBONE = BackboneSettings.model_construct(
    name="resnet10t", kwargs={"b": 1, "a": 2}, weights=str(CATALOG / "random.yaml"), image_size=32,
    mean=None, std=None, interpolation=None, crop_fraction=None, seed=0,
)  # fmt: skip
AUGMENT = AugmentSettings.model_construct(
    crop_area=[0.5, 1.0],
    crop_ratio=[1.0, 1.0],
    horizontal_flip=0.5,
    rotation=0.0,
    shift=0.0,
    color_jitter=0.0,
    blur=0.0,
)
BUILT = SimpleNamespace(
    spec=InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0),
    fingerprint="weights",
    settings=BACKBONE,
    taken="",
)


CARD = SimpleNamespace(sha256={"train.arrow": "t", "test.arrow": "x"}, classes=("a", "b"), reading=STANDARD)


def identity(augment=AUGMENT, **change):
    extract = ExtractSettings.model_construct(
        **{"views": 0, "dtype": "float16", "batch_size": 8, "workers": 0, "seed": 5} | change
    )
    return bank_identity(BUILT, CARD, extract, augment)


def test_a_plain_bank_is_known_by_weights_data_and_input():
    header = identity()
    assert header.weights_sha256 == "weights"
    assert header.data_sha256 == data_sha256(CARD)
    assert json.loads(header.backbone) == {"name": "resnet10t", "kwargs": {"a": 2, "b": 1}}
    assert json.loads(header.transform)["input"]["size"] == 32
    assert (header.views, header.augmented, header.dtype) == (1, False, "float16")


def test_what_cannot_matter_to_a_plain_bank_is_not_part_of_it():
    other = AUGMENT.model_copy(update={"horizontal_flip": 0.0})
    assert identity() == identity(augment=other) == identity(seed=9) == identity(batch_size=2, workers=1)


def test_augmented_views_are_known_by_augmentation_and_seed():
    header, other = identity(views=3), AUGMENT.model_copy(update={"horizontal_flip": 0.0})
    assert (header.views, header.augmented, header.augment_seed) == (3, True, 5)
    assert header != identity(views=3, augment=other)
    assert header != identity(views=3, seed=6)


class Grey:
    """Three images of one shade each."""

    ids, labels = ("a", "b", "c"), (0, 1, 0)

    def __len__(self):
        return 3

    def image(self, row):
        return Image.new("RGB", (40, 40), (80 * row,) * 3)


def views(count, augment=AUGMENT):
    settings = ExtractSettings.model_construct(views=count, batch_size=2, seed=5)
    return [list(loader) for loader in training_views(Grey(), BUILT.spec, settings, augment, 0)]


def test_without_views_every_image_is_seen_once_as_it_is():
    (batches,) = views(0)
    assert torch.cat([batch.index for batch in batches]).tolist() == [0, 1, 2]
    images = torch.cat([on_device(batch, CPU).images for batch in batches])
    expected = (torch.tensor([0.0, 80, 160]) / 255 - 0.5) / 0.5
    torch.testing.assert_close(images, expected.view(3, 1, 1, 1).expand_as(images))


def test_augmented_views_say_which_they_are_and_differ():
    seen = views(3, AUGMENT.model_copy(update={"color_jitter": 0.5}))
    assert [batch.view.tolist() for view in seen for batch in view] == [[0, 0], [0], [1, 1], [1], [2, 2], [2]]
    assert len({float(view[0].images[1].float().mean()) for view in seen}) == 3
