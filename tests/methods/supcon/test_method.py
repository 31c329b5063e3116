import copy
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.supcon.method import SupCon, SupConSettings
from drtune.training.settings import TrainSettings

SHIPPED = {"weight": 0.5, "temperature": 0.1, "projection_dim": None}
N, INPUTS, D, C = 40, 7, 10, 4
IMAGES = torch.randn(N, INPUTS, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))


def prepared(seed=0, label_smoothing=0.0, **change):
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(INPUTS, D), nn.Tanh()), D, C)
    train = TrainSettings.model_construct(seed=seed, label_smoothing=label_smoothing)
    method = SupCon(SupConSettings(**SHIPPED | change), train)
    method.prepare(model, None, [])
    return method, model


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


def slow_contrast(units, labels, temperature):
    """Eq. 2 of Khosla et al. over single views, divided by B."""
    units, y = units.detach().double().numpy(), labels.tolist()
    total = 0.0
    for i in range(len(y)):
        P = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        norm = sum(math.exp(units[i] @ units[k] / temperature) for k in range(len(y)) if k != i)
        for j in P:
            total -= math.log(math.exp(units[i] @ units[j] / temperature) / norm) / len(P)
    return total / len(y)


BATCHES = {"usual": list(range(12)), "one_class": None, "one_row": [3], "short": [0, 1, 2]}


@pytest.mark.parametrize("projection_dim", [None, 6])
@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_objective_equals_slow_loops(weight, case, projection_dim):
    rows = BATCHES[case] or (LABELS == 2).nonzero().flatten().tolist()
    method, model = prepared(weight=weight, projection_dim=projection_dim, label_smoothing=0.1)
    batch = batch_of(rows)
    terms = method.loss(model, batch).weighted
    features, logits = model(batch.images)
    if projection_dim is not None:
        first, _, second = method.projector
        features = (features @ first.weight.T + first.bias).clamp_min(0) @ second.weight.T + second.bias
    units = features / features.norm(dim=1, keepdim=True)
    expected = weight * slow_contrast(units, batch.labels, 0.1)
    assert list(terms) == ["cross_entropy", "contrast"]
    assert terms["contrast"].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    objective = (1 - weight) * cross_entropy(logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(terms["cross_entropy"], objective)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in [*model.parameters(), *method.parameters()])


def test_images_without_another_of_their_class_count_in_the_mean_and_add_nothing():
    method, model = prepared()
    pair = [i for i in range(N) if LABELS[i] == 0][:2]
    alone = [next(i for i in range(N) if LABELS[i] == c) for c in (1, 2, 3)]
    term = method.loss(model, batch_of(pair + alone)).weighted["contrast"]
    units = model.encoder(IMAGES[pair + alone])
    units = (units / units.norm(dim=1, keepdim=True)).detach().double().numpy()
    expected = 0.0
    for i, j in ((0, 1), (1, 0)):
        norm = sum(math.exp(units[i] @ units[k] / 0.1) for k in range(5) if k != i)
        expected -= math.log(math.exp(units[i] @ units[j] / 0.1) / norm)
    assert term.item() == pytest.approx(0.5 * expected / 5, rel=1e-5)


@pytest.mark.parametrize("projection_dim", [None, 6])
def test_the_contrast_trains_the_encoder_and_the_projector_if_any_but_not_the_head(projection_dim):
    method, model = prepared(projection_dim=projection_dim)
    method.loss(model, batch_of(range(12))).weighted["contrast"].backward()
    learning = [*method.parameters(), *model.encoder.parameters()]
    assert len(learning) == (2 if projection_dim is None else 6)
    assert all(p.grad.abs().sum() > 0 for p in learning)
    assert model.head.weight.grad is None


def test_the_projector_comes_from_the_seed_and_not_from_the_global_generator():
    method, model = prepared(projection_dim=6)
    first = method.state_dict()
    torch.manual_seed(77)
    before = torch.get_rng_state()
    method.prepare(model, None, [])
    assert torch.equal(before, torch.get_rng_state())
    again, other = method.state_dict(), prepared(projection_dim=6, seed=1)[0].state_dict()
    assert set(first) == {f"projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("projection_dim", [None, 6])
def test_a_resumed_training_is_bit_identical(projection_dim):
    def go(method, model, start, stop):
        optimizer = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.05)
        losses = []
        for i in range(start, stop):
            loss = method.loss(model, batch_of([(5 * i + j) % N for j in range(8)])).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    one, other = prepared(projection_dim=projection_dim), prepared(projection_dim=projection_dim, seed=9)
    go(*one, 0, 4)
    handed_out = list(other[0].parameters())
    for part, fresh in zip(one, other, strict=True):
        fresh.load_state_dict(copy.deepcopy(part.state_dict()))
    assert all(p is q for p, q in zip(handed_out, other[0].parameters(), strict=True)), "changed in place"
    assert go(*one, 4, 9) == go(*other, 4, 9)


def test_bfloat16_features_are_compared_in_float32():
    losses = []
    for enabled in (False, True):
        method, model = prepared(projection_dim=6)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = method.loss(model, batch_of(range(12))).weighted
        assert all(term.dtype == torch.float32 for term in terms.values())
        losses.append([float(term.detach()) for term in terms.values()])
    np.testing.assert_allclose(*losses, rtol=0.05)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"weight": 1.5}, "less than or equal to 1"), ({"temperature": 0.0}, "greater than 0")],
)
def test_settings_that_cannot_be_are_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        SupConSettings(**SHIPPED | change)
