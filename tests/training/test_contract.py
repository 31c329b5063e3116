"""What every method must do, whatever its objective."""

import copy
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from drtune.backbones.classifier import Classifier
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.params import SETTINGS, load
from drtune.training.contract import Frozen, Loss, Method, load_method
from drtune.training.loop import Hooks, Trainer, set_mode
from drtune.training.optimizers import build_optimizer
from drtune.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PARAMS = load(ROOT / "params.yaml")
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
    method = load_method(name)(PARAMS.method(name), train)
    model = classifier()
    method.prepare(model, bank(model, labels), [batch(range(i, i + 8), labels) for i in range(0, N, 8)])
    return method, model.train()


def optimizer_of(method, model, lr=0.05, momentum=0.0):
    trained = [p for p in (*model.parameters(), *method.parameters()) if p.requires_grad]
    return torch.optim.SGD(trained, lr=lr, momentum=momentum)


def one_step(method, model, rows, optimizer, labels=LABELS):
    item = batch(rows, labels)
    loss = method.loss(model, item)
    loss.total.backward()
    optimizer.step()
    optimizer.zero_grad()
    method.after_step(item, loss.kept)
    method.step += 1
    return {key: value.item() for key, value in loss.weighted.items()}


def trained(name, steps=30, labels=LABELS):
    method, model = prepared(name, labels)
    optimizer = optimizer_of(method, model, momentum=0.9)
    order = torch.randperm(N, generator=generator(1)).tolist()
    losses = [
        one_step(method, model, [order[(8 * i + j) % N] for j in range(8)], optimizer, labels)
        for i in range(steps)
    ]
    return method, model, losses


def test_params_yaml_has_a_section_for_every_method():
    assert set(SETTINGS) == set(PARAMS.raw["methods"])
    assert len(SETTINGS) >= 11


def test_a_method_is_the_one_class_of_its_folder(name):
    kind = load_method(name)
    assert issubclass(kind, Method)
    assert kind.__module__ == f"drtune.methods.{name}.method"
    assert type(PARAMS.method(name)) is SETTINGS[name]
    assert len((ROOT / f"drtune/methods/{name}/method.py").read_text().splitlines()) <= 150


def test_the_total_is_the_sum_of_weight_times_term():
    loss = Loss({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"b": 0.5})
    assert {key: value.item() for key, value in loss.weighted.items()} == {"a": 2.0, "b": 1.5}
    assert loss.total.item() == 3.5


def test_a_frozen_copy_stays_as_it_was_and_no_checkpoint_knows_it():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    holder, rows = nn.Module(), torch.ones(3, 2)
    before = module.eval()(rows)
    holder.frozen = Frozen(module.train())
    with torch.no_grad():
        module[0].weight.add_(1.0)
    assert torch.equal(holder.frozen(rows), before)
    assert not holder.frozen(rows).requires_grad
    assert list(holder.parameters()) == []
    assert holder.state_dict() == {}


def test_the_documentation_has_a_row_for_every_method_and_points_at_its_equation(name):
    rows = (ROOT / "docs/methods.md").read_text().partition("\n## ")[0]
    (row,) = [line for line in rows.splitlines() if line.startswith(f"| `{name}` |")]
    path, line = re.search(rf"`(drtune/(?:methods/{name}/method|training/contract)\.py):(\d+)`", row).groups()
    assert (ROOT / path).read_text().splitlines()[int(line) - 1].startswith("    def loss(")
    own = "loss" in vars(load_method(name))
    assert path == (f"drtune/methods/{name}/method.py" if own else "drtune/training/contract.py")
    if row.endswith("| below |"):
        replaced = (PARAMS.raw["methods"][name] or {}).get("train", {})
        settings = [
            f"`{field}`" for field in (*SETTINGS[name].model_fields, *(f"train.{key}" for key in replaced))
        ]
        assert [field for field in settings if field not in (ROOT / "docs/methods.md").read_text()] == []


def test_terms_are_named_finite_scalars_with_a_gradient(name):
    method, model = prepared(name)
    loss = method.loss(model, batch(range(8)))
    assert loss.terms
    assert all(
        isinstance(key, str) and value.ndim == 0 and value.isfinite() for key, value in loss.terms.items()
    )
    assert loss.weights.keys() <= loss.terms.keys()
    loss.total.backward()
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
    other_method.load_state_dict(copy.deepcopy(method.state_dict()))
    other_method.step = method.step
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
        first = method.loss(model, batch(range(8)))
        terms = first.terms
        method.after_step(batch(range(8)), first.kept)
        again = method.loss(model, batch(range(8, 16))).terms
    assert all(value.isfinite() for value in [*terms.values(), *again.values()])
    full, full_model = prepared(name)
    exact = full.loss(full_model, batch(range(8))).terms
    for key, value in exact.items():
        assert abs(terms[key].item() - value.item()) < 0.05 * max(1.0, abs(value.item()))


WEIGHTS = {
    "bi_tuning": {"class_contrast": "weight", "projection_contrast": "weight"},
    "bss": {"shrinkage": "eta"},
    "core_tuning": {"contrast": "eta"},
    "delta": {"feature_maps": "alpha", "head_decay": "beta"},
    "dr_tune": {"distribution": "weight"},
    "sp": {"start": "alpha", "head": "beta"},
    "supcon": {"contrast": "weight"},
}
"""Method -> term -> the setting that weighs it."""


@pytest.mark.parametrize(("name", "fields"), WEIGHTS.items(), ids=WEIGHTS)
def test_terms_come_without_the_weights_of_the_settings(name, fields):
    found = []
    for factor in (1.0, 0.5):
        method, model = prepared(name)
        own = PARAMS.method(name)
        change = {field: factor * getattr(own, field) for field in fields.values()}
        method.settings = own.model_copy(update=change)
        found.append(method.loss(model, batch(range(8))))
        assert {term: found[-1].weights[term] for term in fields} == {
            term: pytest.approx(change[field]) for term, field in fields.items()
        }
    assert found[0].terms == found[1].terms


WAITING = {"bss": {"_linalg_svd"}}
"""Method -> operations that wait inside: CUDA's factorisations return once the host knows how they ended."""
FACTORISATIONS = {"_linalg_svd", "_linalg_eigh", "_linalg_eigvals", "linalg_eig", "linalg_lstsq"} | {
    "linalg_cholesky", "linalg_inv", "linalg_solve", "_linalg_check_errors"
}  # fmt: skip


class Seen(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation._schema.name)
        return operation(*args, **(kwargs or {}))


def without_values(trainer):
    """The training as on an accelerator of which no value can be read: PyTorch's device `meta`."""
    model, method = trainer.model.to("meta"), trainer.method.to("meta")
    for copied in [value for value in vars(method).values() if isinstance(value, Frozen)]:
        copied.module.to("meta")
    if trainer.ema is not None:
        trainer.ema.to("meta")
    trainer.optimizer = build_optimizer(model, trainer.settings, method.parameters())
    trainer.accelerator.state.device = torch.device("meta")
    return trainer


@pytest.mark.parametrize("step", [1, 10])  # DR-Tune turns its bank in the second
@pytest.mark.parametrize("change", [{}, {"optimizer": "sgd", "clip_norm": 1.0, "ema_decay": 0.9}])
def test_a_step_asks_the_device_for_no_value(name, step, change, monkeypatch, clean_torch):
    train = PARAMS[TrainSettings].model_copy(
        update={"batch_size": 8, "batch_norm": "train", "precision": "no", **change}
    )
    model, batches = classifier(), DataLoader([batch(range(8))], batch_size=None)
    method = load_method(name)(PARAMS.method(name), train)
    trainer = without_values(Trainer(model, method, bank(model), batches, batches, train, Hooks()))
    set_mode(model, method.trains, train.batch_norm)
    trainer.progress.step = step
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to this device
    with Seen() as seen:
        terms = trainer.step(batch(range(8, 16)))
    assert {value.device.type for value in terms.values()} == {"meta"}
    assert {name.removeprefix("aten::") for name in seen.names} & FACTORISATIONS == WAITING.get(name, set())
