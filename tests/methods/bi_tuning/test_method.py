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
from drtune.methods.bi_tuning.method import BiTuning, BiTuningSettings
from drtune.training.settings import TrainSettings

SHIPPED = {
    "weight": 1.0, "temperature": 0.07, "queue_size": 40, "key_momentum": 0.999, "projection_dim": 6,
    "class_scores": "cosine",
}  # fmt: skip
N, INPUTS, D, C = 40, 7, 10, 4
IMAGES = torch.randn(N, INPUTS, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))


def prepared(seed=0, label_smoothing=0.0, encoder=None, **change):
    torch.manual_seed(0)
    encoder = encoder or nn.Sequential(nn.Linear(INPUTS, D), nn.Tanh())
    model = Classifier(encoder, D, C)
    train = TrainSettings.model_construct(seed=seed, label_smoothing=label_smoothing)
    method = BiTuning(BiTuningSettings(**SHIPPED | change), train)
    method.prepare(model, None, [])
    return method, model


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


def train_on(method, model, start, stop, lr=0.05):
    optimizer = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=lr)
    losses = []
    for i in range(start, stop):
        batch = batch_of([(5 * i + j) % N for j in range(8)])
        loss = method.loss(model, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        method.after_step(batch, loss.kept)
        losses.append(loss.total.item())
    return losses


def numbers(tensor):
    return tensor.detach().double().numpy()


def unit(row):
    return row / np.linalg.norm(row)


def divergence(scores, labels, own):
    """KL from the uniform distribution on the keys of class `own` to the softmax of `scores`."""
    P = [j for j, label in enumerate(labels) if label == own]
    norm = sum(math.exp(s) for s in scores)
    return sum(1 / len(P) * math.log(1 / len(P) / (math.exp(scores[j]) / norm)) for j in P)


class SlowBiTuning:
    """The method in loops: copies that follow, one list of (feature, projection) for each class."""

    def __init__(self, method, model):
        self.use = method.settings
        self.slow = [
            copy.deepcopy(p.detach()) for p in (*model.encoder.parameters(), *method.projector.parameters())
        ]
        self.queues = {c: [] for c in range(C)}

    def step(self, method, model, batch):
        m, T, cosine = self.use.key_momentum, self.use.temperature, self.use.class_scores == "cosine"
        fast = [p.detach() for p in (*model.encoder.parameters(), *method.projector.parameters())]
        self.slow = [m * s + (1 - m) * f for s, f in zip(self.slow, fast, strict=True)]
        W, b, P, q = (numbers(part) for part in self.slow)
        of_class, of_projection, fresh = 0.0, 0.0, []
        features = numbers(model(batch.images).features)
        for image, label, h in zip(numbers(batch.images), batch.labels.tolist(), features, strict=True):
            slow_h = np.tanh(W @ image + b)
            slow_z = unit(P @ slow_h + q)
            z = unit(numbers(method.projector[0].weight) @ h + numbers(method.projector[0].bias))
            w = numbers(model.head.weight)[label]
            if cosine:
                h, w, slow_h = unit(h), unit(w), unit(slow_h)
            keys = [(c, *key) for c, queue in self.queues.items() for key in queue]
            labels = [label, *(key[0] for key in keys)]
            of_class += divergence([w @ h / T, *(w @ key[1] / T for key in keys)], labels, label)
            of_projection += divergence([z @ slow_z / T, *(z @ key[2] / T for key in keys)], labels, label)
            fresh.append((label, slow_h, slow_z))
        for label, *key in fresh:
            self.queues[label] = (self.queues[label] + [key])[-self.use.queue_size :]
        return of_class / len(fresh), of_projection / len(fresh)


@pytest.mark.parametrize("class_scores", ["cosine", "dot"])
@pytest.mark.parametrize("queue_size", [1, 3, 40])
def test_the_objective_equals_slow_loops_step_by_step(queue_size, class_scores):
    method, model = prepared(
        queue_size=queue_size, class_scores=class_scores, key_momentum=0.7, weight=0.5,
        label_smoothing=0.1, temperature=0.5,
    )  # fmt: skip
    slow = SlowBiTuning(method, model)
    optimizer = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.1)
    one_class = (LABELS == 2).nonzero().flatten().tolist()
    for rows in (range(8), range(8, 13), one_class, [7], range(40), range(20, 28)):
        batch = batch_of(list(rows))
        expected = [0.5 * value for value in slow.step(method, model, batch)]
        entropy = cross_entropy(model(batch.images).logits, batch.labels, label_smoothing=0.1)
        loss = method.loss(model, batch)
        terms = loss.weighted
        assert list(terms) == ["cross_entropy", "class_contrast", "projection_contrast"]
        found = [float(term.detach()) for term in terms.values()]
        np.testing.assert_allclose(found, [float(entropy.detach()), *expected], rtol=1e-4, atol=1e-6)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        method.after_step(batch, loss.kept)
    assert method.queues.pushed.sum() == 8 + 5 + len(one_class) + 1 + 40 + 8


def test_nothing_is_contrasted_before_the_first_keys():
    method, model = prepared()
    loss = method.loss(model, batch_of(range(8)))
    assert loss.terms["class_contrast"].item() == loss.terms["projection_contrast"].item() == 0
    method.after_step(batch_of(range(8)), loss.kept)
    assert all(term.item() > 0 for term in method.loss(model, batch_of(range(8, 16))).terms.values())


@pytest.mark.parametrize("class_scores", ["cosine", "dot"])
def test_the_class_contrast_trains_head_and_encoder_and_the_other_projector_and_encoder(class_scores):
    method, model = prepared(class_scores=class_scores, temperature=1.0)
    train_on(method, model, 0, 3)
    for name, trained, untouched in (
        ("class_contrast", [model.head.weight], [*method.projector.parameters()]),
        ("projection_contrast", [*method.projector.parameters()], [model.head.weight]),
    ):
        for parameter in [*model.parameters(), *method.parameters()]:
            parameter.grad = None
        method.loss(model, batch_of(range(8))).weighted[name].backward()
        assert all(p.grad.abs().sum() > 0 for p in [*trained, *model.encoder.parameters()])
        assert all(p.grad is None for p in untouched)
    assert not any(p.requires_grad for p in method.slow.parameters())


def test_the_slow_copies_follow_by_their_momentum():
    method, model = prepared(key_momentum=0.9)
    before = [p.clone() for p in method.slow.parameters()]
    train_on(method, model, 0, 1, lr=0.5)
    assert all(torch.equal(p, q) for p, q in zip(before, method.slow.parameters(), strict=True)), "no lag yet"
    with torch.no_grad():
        for parameter in method.projector.parameters():  # empty queues gave it no gradient
            parameter += 1.0
    method.loss(model, batch_of(range(8)))
    fast = [*model.encoder.parameters(), *method.projector.parameters()]
    for old, new, target in zip(before, method.slow.parameters(), fast, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target)
    assert not any(torch.equal(p, q) for p, q in zip(before, method.slow.parameters(), strict=True))


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_slow_encoder_normalises_as_the_encoder_does_and_leaves_it_alone(batch_norm):
    encoder = nn.Sequential(nn.Linear(INPUTS, D), nn.BatchNorm1d(D), nn.Dropout(0.0))
    method, model = prepared(encoder=encoder)
    model.train()
    model.encoder[1].train(batch_norm == "train")
    keys, _ = method.loss(model, batch_of(range(8))).kept
    slow = method.slow["encoder"]
    assert [m.training for m in slow.modules()] == [m.training for m in model.encoder.modules()]
    for mine, theirs in zip(slow[1].buffers(), model.encoder[1].buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert slow[1].num_batches_tracked == (batch_norm == "train")
    torch.testing.assert_close(keys, normalized(model.encoder(IMAGES[:8])))


def normalized(rows):
    return (rows / rows.norm(dim=1, keepdim=True)).detach()


@pytest.mark.parametrize("done", [1, 7])
def test_a_resumed_training_is_bit_identical(done):
    encoders = [nn.Sequential(nn.Linear(INPUTS, D), nn.BatchNorm1d(D), nn.Tanh()) for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    one, other = prepared(encoder=encoders[0], queue_size=5), prepared(encoder=encoders[1], queue_size=5)
    train_on(*one, 0, done)
    handed_out = list(other[0].parameters())
    for part, fresh in zip(one, other, strict=True):
        fresh.load_state_dict(copy.deepcopy(part.state_dict()))
    assert all(p is q for p, q in zip(handed_out, other[0].parameters(), strict=True)), "changed in place"
    assert train_on(*one, done, done + 8) == train_on(*other, done, done + 8)
    assert "slow.encoder.1.running_mean" in one[0].state_dict()
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, other[0].state_dict()[name]), name


def test_it_starts_from_the_seed_and_not_from_the_global_generator():
    method, model = prepared()
    first = method.state_dict()["projector.0.weight"]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    method.prepare(model, None, [])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, method.state_dict()["projector.0.weight"])
    assert not torch.equal(first, prepared(seed=1)[0].state_dict()["projector.0.weight"])


def test_bfloat16_features_are_compared_in_float32():
    losses = []
    for enabled in (False, True):
        method, model = prepared(temperature=0.5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            train_on(method, model, 0, 2)
            terms = method.loss(model, batch_of(range(12))).weighted
        assert all(term.dtype == torch.float32 for term in terms.values())
        assert all(table.dtype == torch.float32 for table in method.queues.tables)
        losses.append([float(term.detach()) for term in terms.values()])
    np.testing.assert_allclose(*losses, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"queue_size": 0}, "greater than or equal to 1"),
        ({"key_momentum": 1.1}, "less than or equal to 1"),
        ({"class_scores": "logits"}, "'cosine' or 'dot'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        BiTuningSettings(**SHIPPED | change)
