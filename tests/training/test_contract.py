"""What every row of SETTINGS must do, whatever its objective."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.params import SETTINGS, load
from drtune.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PARAMS = load(ROOT / "params.yaml", SETTINGS)
N, C, D = 48, 3, 8
LABELS = torch.arange(N) % C
IMAGES = torch.randn(N, 3, 4, 4, generator=generator(0)) * 0.5 + (LABELS - 1.0).view(-1, 1, 1, 1) * 2


def classifier():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, D), nn.ReLU()
    )
    encoder.feature_info = [{"module": "2", "reduction": 4}]  # as timm's encoders list their stages
    return Classifier(encoder, D, C)


def bank(model, labels=LABELS):
    with torch.no_grad():
        features = model.eval().encoder(IMAGES)[None]
    header = BankHeader(
        backbone="toy", weights_sha256="w", data_sha256="d", transform="{}", views=1, augmented=False,
        augment_seed=0, dtype="float32",
    )  # fmt: skip
    return FeatureBank.from_tensors(features, labels, [str(i) for i in range(N)], header)


def batch(rows, labels=LABELS):
    index = torch.tensor(rows)
    return Batch(IMAGES[index], labels[index], index, torch.zeros(len(rows), dtype=torch.long))


@pytest.fixture(params=list(SETTINGS))
def name(request):
    return request.param


def prepared(name, labels=LABELS, **change):
    train = PARAMS[TrainSettings].model_copy(update={"batch_size": 8, **change})
    method = SETTINGS[name](PARAMS.method(name), train)
    model = classifier()
    method.prepare(model, bank(model, labels), [batch(range(i, i + 8), labels) for i in range(0, N, 8)])
    return method, model.train()


def optimizer_of(method, model, lr=0.05, momentum=0.0):
    return torch.optim.SGD([*model.parameters(), *method.parameters()], lr=lr, momentum=momentum)


def one_step(method, model, rows, optimizer, labels=LABELS):
    item = batch(rows, labels)
    terms = method.loss(model, item)
    loss = sum(terms.values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    method.after_step(item)
    return {key: value.item() for key, value in terms.items()}


def trained(name, steps=30, labels=LABELS):
    method, model = prepared(name, labels)
    optimizer = optimizer_of(method, model, momentum=0.9)
    order = torch.randperm(N, generator=generator(1)).tolist()
    losses = [
        one_step(method, model, [order[(8 * i + j) % N] for j in range(8)], optimizer, labels)
        for i in range(steps)
    ]
    return method, model, losses


def test_the_table_holds_what_params_yaml_holds():
    assert set(SETTINGS) == set(PARAMS.raw["methods"])
    assert len(SETTINGS) >= 3


def test_the_documentation_has_a_row_for_every_method_and_points_at_its_equation(name):
    rows = (ROOT / "docs/methods.md").read_text().partition("\n## ")[0]
    (row,) = [line for line in rows.splitlines() if line.startswith(f"| `{name}` |")]
    path, line = re.search(rf"`(drtune/methods/{name}\.py):(\d+)`", row).groups()
    assert (ROOT / path).read_text().splitlines()[int(line) - 1].startswith("    def loss(")
    if row.endswith("| below |"):
        settings = [f"`{field}`" for field in SETTINGS[name].Settings.model_fields]
        assert [field for field in settings if field not in (ROOT / "docs/methods.md").read_text()] == []


def test_terms_are_named_finite_scalars_with_a_gradient(name):
    method, model = prepared(name)
    terms = method.loss(model, batch(range(8)))
    assert terms
    assert all(isinstance(key, str) and value.ndim == 0 and value.isfinite() for key, value in terms.items())
    sum(terms.values()).backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_it_learns_a_trivial_task(name):
    _, model, losses = trained(name, steps=60)
    with torch.no_grad():
        accuracy = (model.eval()(IMAGES).logits.argmax(1) == LABELS).float().mean()
    assert accuracy == 1.0
    assert sum(losses[-1].values()) < 0.5 * sum(losses[0].values())


def test_same_start_twice_is_bit_identical(name):
    (_, a, losses_a), (_, b, losses_b) = trained(name), trained(name)
    assert losses_a == losses_b
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_state_round_trip_goes_on_bit_for_bit(name):
    method, model, _ = trained(name, steps=13)
    other_method, other_model = prepared(name)
    other_model.load_state_dict(model.state_dict())
    other_method.load_state_dict({k: v.clone() for k, v in method.state_dict().items()})
    losses = []
    for m, net in ((method, model), (other_method, other_model)):
        optimizer = optimizer_of(m, net)
        losses.append([one_step(m, net, range(8 * i, 8 * i + 8), optimizer) for i in range(5)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "rows",
    [[0, 1, 2], [0, 3, 6, 9, 12, 15, 18, 21], list(range(40))],
    ids=["short_batch", "one_class_a_batch", "larger_than_usual"],
)
def test_odd_batches(name, rows):
    method, model = prepared(name)
    optimizer = optimizer_of(method, model, lr=0.01)
    for _ in range(3):
        assert all(torch.tensor(v).isfinite() for v in one_step(method, model, rows, optimizer).values())
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("case", ["absent_class", "one_row_class"])
def test_rare_classes(name, case):
    labels = LABELS.clone()
    labels[labels == 2] = 0
    if case == "one_row_class":
        labels[5] = 2
    _, model, losses = trained(name, steps=12, labels=labels)
    assert all(torch.tensor(v).isfinite() for terms in losses for v in terms.values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_bfloat16_autocast(name):
    method, model = prepared(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.loss(model, batch(range(8)))
        method.after_step(batch(range(8)))
        again = method.loss(model, batch(range(8, 16)))
    assert all(value.isfinite() for value in [*terms.values(), *again.values()])
    full, full_model = prepared(name)
    exact = full.loss(full_model, batch(range(8)))
    for key, value in exact.items():
        assert abs(terms[key].item() - value.item()) < 0.05 * max(1.0, abs(value.item()))


def test_phases_cover_the_epochs_asked_for(name):
    method, _ = prepared(name)
    assert sum(phase.epochs for phase in method.phases(7)) == 7
