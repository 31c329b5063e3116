import copy
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.errors import ConfigError, DataError
from drtune.base.seeding import generator
from drtune.base.yaml import read_yaml
from drtune.data.batch import Batch
from drtune.methods.sp.fisher import fisher_diagonal
from drtune.methods.sp.method import SP, absolute, grouped, penalised, squared
from drtune.methods.sp.settings import SPSettings
from drtune.params import SETTINGS, parse
from drtune.training.settings import TrainSettings

FILE = Path(__file__).resolve().parents[3] / "params.yaml"
OFFICIAL = {
    "penalty": "l2_sp", "alpha": 0.1, "beta": 0.01, "half": True, "parameters": "weights_only",
    "smoothing": 1e-16, "fisher_eps": 0.0, "fisher_samples": 256,
}  # fmt: skip
PENALTIES = ["l2_sp", "l2_sp_fisher", "l1_sp", "gl_sp", "gl_sp_fisher"]
FISHER = ["l2_sp_fisher", "gl_sp_fisher"]
N, C = 12, 3
IMAGES = torch.randn(N, 3, 5, 5, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))


class Encoder(nn.Sequential):
    """Layers of every kind, and a parameter that is a matrix by shape but no layer's weight."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(4, 6),
        )  # fmt: skip
        self.pos_embed = nn.Parameter(torch.zeros(1, 6, 1))
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.temperature + self.pos_embed.flatten(1)


def classifier():
    torch.manual_seed(0)
    model = Classifier(Encoder(), 6, C)
    with torch.no_grad():
        model.encoder[1].running_mean.normal_()
    return model


def method_of(label_smoothing=0.0, **change):
    train = TrainSettings.model_construct(seed=0, label_smoothing=label_smoothing)
    return SP(SPSettings(**OFFICIAL | change), train)


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


BATCHES = [batch_of(range(5)), batch_of(range(5, N))]


def started(**change):
    """A prepared method and its model, at the start."""
    model, method = classifier(), method_of(**change)
    method.prepare(model, None, BATCHES)
    return method, model


@torch.no_grad()
def move(model, size=0.1, seed=2):
    random = generator(seed)
    for p in model.parameters():
        p += size * torch.randn(p.shape, generator=random)
    return model


def slow_terms(penalty, model, start, fisher, *, alpha, beta, half, parameters, smoothing):
    """The equations of the paper in loops over numbers, with the smoothing of the official code."""
    half = 0.5 if half else 1.0
    omega, new, at = 0.0, 0.0, 0
    for name, p in model.encoder.named_parameters():
        is_weight = name in ("0.weight", "3.weight", "5.weight")
        if parameters == "weights_only" and not is_weight:
            continue
        d = (p.detach().double() - start[f"encoder.{name}"].double()).reshape(p.shape or (1,))
        for row in d:
            values = row.flatten().tolist()
            weights = [1.0] * len(values) if fisher is None else fisher[at : at + len(values)].tolist()
            at += len(values)
            if penalty == "l1_sp":
                omega += sum(math.sqrt(v * v + smoothing) - math.sqrt(smoothing) for v in values)
                continue
            total = sum(w * v * v for w, v in zip(weights, values, strict=True))
            if penalty.startswith("gl"):
                omega += math.sqrt(len(values)) * (math.sqrt(total + smoothing) - math.sqrt(smoothing))
            else:
                omega += half * total
    assert fisher is None or at == len(fisher)
    for name, p in model.head.named_parameters():
        if parameters == "all" or name == "weight":
            new += half * sum(v * v for v in p.detach().double().flatten().tolist())
    return {"start": alpha * omega, "head": beta * new}


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("parameters", ["weights_only", "all"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_terms_are_the_equations_number_by_number(penalty, parameters, half):
    own = {"alpha": 0.3, "beta": 0.07, "half": half, "parameters": parameters, "smoothing": 1e-6}
    method, model = started(penalty=penalty, fisher_eps=0.01, fisher_samples=7, **own)
    start = copy.deepcopy(model.state_dict())
    fisher = None
    if penalty in FISHER:
        weights = penalised(model.encoder, parameters)
        fisher = fisher_diagonal(model, weights, IMAGES[:7]).double() + 0.01
    for seed, rows in ((2, range(8)), (3, [4])):
        move(model, seed=seed)
        terms = method.loss(model, batch_of(rows)).weighted
        assert list(terms) == ["cross_entropy", "start", "head"]
        expected = slow_terms(penalty, model, start, fisher, **own)
        for name, value in expected.items():
            assert terms[name].item() == pytest.approx(value, rel=1e-4)
            assert value > 1e-3


def test_the_batch_s_term_is_the_smoothed_cross_entropy():
    method, model = started(label_smoothing=0.2)
    batch = batch_of(range(6))
    expected = cross_entropy(model(batch.images).logits, batch.labels, label_smoothing=0.2)
    torch.testing.assert_close(method.loss(model, batch).weighted["cross_entropy"], expected)


@pytest.mark.parametrize("smoothing", [1e-16, 1e-30, 1.0])
@pytest.mark.parametrize("parameters", ["weights_only", "all"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_at_the_start_the_penalty_and_its_gradient_are_exactly_zero(penalty, parameters, smoothing):
    method, model = started(penalty=penalty, parameters=parameters, smoothing=smoothing)
    value = method.loss(model, batch_of(range(4))).weighted["start"]
    assert value.item() == 0
    value.backward()
    counted = penalised(model.encoder, parameters)
    assert all(p.grad.abs().max() == 0 for p in counted)
    move(model, 1e-3)
    terms = method.loss(model, batch_of(range(4))).weighted
    terms["start"].backward()
    assert all(p.grad.isfinite().all() for p in counted)
    assert terms["start"] > 0


def test_weights_only_are_the_kernels_and_matrices():
    encoder = Encoder()
    weights = penalised(encoder, "weights_only")
    expected = [encoder[0].weight, encoder[3].weight, encoder[5].weight]
    assert [id(p) for p in weights] == [id(p) for p in expected]
    assert [id(p) for p in penalised(encoder, "all")] == [id(p) for p in encoder.parameters()]
    head = nn.Linear(4, 2)
    assert [len(penalised(head, which)) for which in ("weights_only", "all")] == [1, 2]


@pytest.mark.parametrize("parameters", ["weights_only", "all"])
def test_what_is_not_counted_gets_no_gradient(parameters):
    method, model = started(parameters=parameters)
    terms = method.loss(move(model), batch_of(range(4))).weighted
    (terms["start"] + terms["head"]).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    free = {"0.bias", "1.weight", "1.bias", "5.bias", "pos_embed", "temperature"}
    everything = {"head.bias", *(f"encoder.{name}" for name in free)}
    assert without == (everything if parameters == "weights_only" else set())


def test_half_counts_for_the_squares_alone():
    for penalty, ratio in (
        ("l2_sp", 2),
        ("l2_sp_fisher", 2),
        ("l1_sp", 1),
        ("gl_sp", 1),
        ("gl_sp_fisher", 1),
    ):
        values = []
        for half in (True, False):
            method, model = started(penalty=penalty, half=half)
            values.append(method.loss(move(model), batch_of(range(4))).weighted)
        assert values[1]["start"].item() == pytest.approx(ratio * values[0]["start"].item(), rel=1e-5)
        assert values[1]["head"].item() == pytest.approx(2 * values[0]["head"].item(), rel=1e-5)


def minimum(penalty, target, start):
    """argmin over w of 1/2 ||w - target||² + penalty(w - start), float64."""
    w = target.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [w], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        value = 0.5 * (w - target).square().sum() + penalty(w - start)
        value.backward()
        return value

    solver.step(closure)
    return w.detach()


TARGET = torch.randn(12, dtype=torch.float64, generator=generator(5))
START = torch.randn(12, dtype=torch.float64, generator=generator(6))
IMPORTANCE = torch.rand(12, dtype=torch.float64, generator=generator(7)) * 3


@pytest.mark.parametrize("alpha", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("importance", [None, IMPORTANCE], ids=["l2_sp", "l2_sp_fisher"])
def test_the_squares_pull_to_the_weighted_mean_of_both_ends(alpha, importance):
    F = 1.0 if importance is None else importance
    found = minimum(lambda d: 0.5 * alpha * squared(d, importance), TARGET, START)
    torch.testing.assert_close(found, (TARGET + alpha * F * START) / (1 + alpha * F), atol=1e-7, rtol=0)
    found = minimum(lambda d: alpha * squared(d, importance), TARGET, START)
    expected = (TARGET + 2 * alpha * F * START) / (1 + 2 * alpha * F)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_the_absolute_values_are_a_soft_threshold(alpha):
    found = minimum(lambda d: alpha * absolute(d, 1e-8), TARGET, START)
    way = TARGET - START
    expected = START + way.sign() * (way.abs() - alpha).clamp(min=0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (expected == START).any()


@pytest.mark.parametrize("alpha", [0.2, 0.8, 10.0])
def test_the_groups_are_a_soft_threshold_of_their_lengths(alpha):
    shapes = [(2, 1), (1, 4), (2, 3)]
    found = minimum(lambda d: alpha * grouped(d, shapes, 1e-8), TARGET, START)
    expected, at, stay = [], 0, 0
    for size in (1, 1, 4, 3, 3):
        way = (TARGET - START)[at : at + size]
        keep = max(0.0, 1 - alpha * math.sqrt(size) / float(way.norm()))
        stay += keep == 0
        expected.append(START[at : at + size] + keep * way)
        at += size
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-3, rtol=0)
    assert (stay == 5) == (alpha == 10)


def test_groups_weighted_by_importance_fulfil_the_optimality_condition():
    # a group that has left w0:  w - target + alpha s_g F d / sqrt(sum F d²) = 0
    alpha, shapes = 0.2, [(2, 1), (1, 4), (2, 3)]
    d = minimum(lambda d: alpha * grouped(d, shapes, 1e-12, IMPORTANCE), TARGET, START) - START
    at, left = 0, 0
    for size in (1, 1, 4, 3, 3):
        part, F = d[at : at + size], IMPORTANCE[at : at + size]
        length = (F * part**2).sum().sqrt()
        if length > 1e-2:
            pull = alpha * math.sqrt(size) * F * part / length
            torch.testing.assert_close(part - (TARGET - START)[at : at + size], -pull, atol=1e-4, rtol=0)
            left += 1
        at += size
    assert left >= 3


@pytest.mark.parametrize("penalty", FISHER)
def test_fisher_is_of_the_start_and_of_the_first_images_alone(penalty):
    method, model = started(penalty=penalty, fisher_samples=7, fisher_eps=0.5)
    weights = penalised(model.encoder, "weights_only")
    torch.testing.assert_close(method.importance, fisher_diagonal(model, weights, IMAGES[:7]) + 0.5)
    everything, _ = started(penalty=penalty, fisher_samples=1000, fisher_eps=0.5)
    torch.testing.assert_close(everything.importance, fisher_diagonal(model, weights, IMAGES) + 0.5)
    assert not torch.allclose(method.importance, everything.importance)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_no_more_batches_are_read_than_fisher_needs():
    def endless():
        yield BATCHES[0]
        yield BATCHES[1]
        raise AssertionError("read on after fisher_samples images")

    method_of(penalty="l2_sp_fisher", fisher_samples=8).prepare(classifier(), None, endless())
    method_of(penalty="l2_sp").prepare(classifier(), None, iter([AssertionError("not read at all")]))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_resumed_training_is_bit_identical_whatever_prepare_sees(penalty):
    def go(method, model, steps):
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
        losses = []
        for step in range(steps):
            batch = batch_of([(5 * step + i) % N for i in range(5)])
            loss = method.loss(model, batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    method, model = started(penalty=penalty)
    go(method, model, 5)
    other_model, other = classifier(), method_of(penalty=penalty)
    other.prepare(other_model, None, BATCHES[::-1])
    assert set(method.state_dict()) == ({"importance"} if penalty in FISHER else set())
    other_model.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert go(method, model, 6) == go(other, other_model, 6)


def test_a_large_alpha_keeps_the_encoder_where_it_was():
    gone = {}
    for alpha in (0.0, 10.0):
        method, model = started(alpha=alpha)
        before = method.start.clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _ in range(20):
            optimizer.zero_grad()
            method.loss(model, batch_of(range(N))).total.backward()
            optimizer.step()
        now = torch.cat([p.detach().flatten() for p in penalised(model.encoder, "weights_only")])
        gone[alpha] = float((now - before).norm())
    assert gone[10.0] < 0.3 * gone[0.0]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_penalties_stay_in_float32_under_autocast(penalty):
    method, model = started(penalty=penalty)
    move(model)
    exact = method.loss(model, batch_of(range(8))).weighted
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.loss(model, batch_of(range(8))).weighted
    for name in ("start", "head"):
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], exact[name])


def settings_with(general=None, **own):
    """params.yaml with `train.method: sp`, keys of train and of the method changed."""
    raw = copy.deepcopy(read_yaml(FILE))
    raw["train"] |= {"method": "sp"} | (general or {})
    raw["methods"]["sp"] = OFFICIAL | own
    return parse(raw, "params.yaml", SETTINGS)


def test_a_weight_decay_of_its_own_takes_the_place_of_train_s():
    assert settings_with({"weight_decay": 0.3}, train={"weight_decay": 0.0})[TrainSettings].weight_decay == 0
    assert settings_with({"weight_decay": 0.3})[TrainSettings].weight_decay == 0.3


def test_fisher_information_of_a_head_of_zeros_is_a_fault():
    for penalty in FISHER:
        with pytest.raises(
            ConfigError, match=f"train.head_init +'zero' gives no gradient.*{penalty} would be 0"
        ):
            settings_with({"head_init": "zero"}, penalty=penalty)
        settings_with({"head_init": "bank"}, penalty=penalty)
    settings_with({"head_init": "zero"})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"penalty": "l3_sp"}, "penalty +expected .*'gl_sp_fisher', got 'l3_sp'"),
        ({"parameters": "biases"}, "parameters +expected 'weights_only' or 'all', got 'biases'"),
        ({"alpha": -0.1}, "alpha +expected a number >= 0, got -0.1"),
        ({"smoothing": 0.0}, "smoothing +expected a number >= 1e-30, got 0.0"),
        ({"fisher_samples": 0}, "fisher_samples +expected an integer >= 1, got 0"),
    ],
)
def test_what_cannot_be_is_a_fault(change, text):
    with pytest.raises(ConfigError, match=f"methods.sp.{text}"):
        settings_with(**change)
    with pytest.raises(ValidationError):
        SPSettings(**OFFICIAL | change)


def test_fisher_information_needs_images():
    with pytest.raises(DataError, match="Fisher information needs images"):
        method_of(penalty="l2_sp_fisher").prepare(classifier(), None, [])
