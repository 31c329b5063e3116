import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import normalize, one_hot

from drtune.backbones.classifier import Classifier
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.core_tuning.method import CoreTuning, CoreTuningSettings
from drtune.methods.core_tuning.mixing import hard_pairs, mix, mixing, same_labels
from drtune.training.losses import not_self, similarities, supervised_contrast
from drtune.training.settings import TrainSettings

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "core_tuning_official.safetensors"
SHIPPED = {"eta": 0.1, "alpha": 1.0, "temperature": 0.07, "projection_dim": 6, "faithful": "paper"}
OFFICIAL = SHIPPED | {"faithful": "official_code"}
N, INPUTS, D, C = 40, 7, 10, 4
IMAGES = torch.randn(N, INPUTS, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))


def official_tensors(case):
    if not GOLDEN.is_file():
        pytest.skip("official tensors are not beside the repository (../shared/golden)")
    return {k.removeprefix(f"{case}."): v for k, v in load_file(GOLDEN).items() if k.startswith(f"{case}.")}


def official_contrast(units, positives):
    others = not_self(len(units), units.device)
    return supervised_contrast(
        similarities(units, units, 0.07), positives & others, others,
        focal=True, divide_by="columns", average_over="with_positives",
    )  # fmt: skip


@pytest.mark.parametrize("case", ["focal0", "focal1"])
def test_parity_with_the_official_focal_contrast_and_its_gradient(case):
    of = official_tensors(case)
    features = of["features"].requires_grad_()
    loss = official_contrast(features, of["labels"][:, None] == of["labels"])
    loss.backward()
    torch.testing.assert_close(loss, of["loss"], rtol=1e-4, atol=0)
    assert (features.grad - of["gradient"]).abs().max() <= 1e-4 * of["gradient"].abs().max()


@pytest.mark.parametrize("case", ["mixup0", "mixup1"])
def test_parity_with_the_official_mixing(case):
    of = official_tensors(case)
    features, labels, classes = of["features"], of["labels"], of["mixed_labels"].shape[1]
    pairs = hard_pairs(features, labels, official=True)
    mixed = mixing(*pairs, of["order"], of["lam_negative_raw"], of["lam_positive"])
    rows = mix(features, mixed)
    torch.testing.assert_close(rows, of["mixed_features"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        mix(one_hot(labels, classes).float(), mixed), of["mixed_labels"], rtol=1e-4, atol=1e-6
    )
    same = same_labels(labels, mixed, classes)
    assert torch.equal(same, (of["mixed_labels"][:, None] == of["mixed_labels"]).all(dim=2))
    loss = official_contrast(normalize(rows), same)
    torch.testing.assert_close(loss, of["focal_loss_of_normalised_mixed"], rtol=1e-4, atol=0)


def train_settings(**change):
    """The settings that the method reads, and no others."""
    return TrainSettings.model_construct(**{"seed": 0, "label_smoothing": 0.0} | change)


def prepared(preset=SHIPPED, classes=C, **change):
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(INPUTS, D), nn.ReLU()), D, classes)
    method = CoreTuning(CoreTuningSettings(**preset), train_settings(**change))
    method.prepare(model, None, [])
    return method, model


def batch_of(rows, labels=LABELS):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], labels[index], index, torch.zeros_like(index))


def slow_loss(method, model, batch, classes, official, smoothing):
    """Both terms in float64 loops over the rows, from the draws of the method."""
    use, y, B = method.settings, batch.labels.tolist(), len(batch.labels)
    z = model.encoder(batch.images).detach().double().numpy()
    order, low, high = (part.tolist() for part in method.draw(B, torch.device("cpu")))
    cosine = [[a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12) for b in z] for a in z]
    eye = np.eye(classes)
    rows, targets = [*z], [eye[c] for c in y]
    for i in range(B):
        share = max(low[i], 0.8)
        rows.append((1 - share) * z[i] + share * z[order[i]])
        targets.append((1 - share) * eye[y[i]] + share * eye[y[order[i]]])
    for i in range(B):
        mine = [j for j in range(B) if y[j] == y[i] and j != i]
        others = [j for j in range(B) if y[j] != y[i]]
        hn = max(others, key=cosine[i].__getitem__) if others else i
        hp = min(mine, key=cosine[i].__getitem__) if mine else i
        if official:
            masked = [cosine[i][j] if j in mine else 0.0 for j in range(B)]
            hp = masked.index(min(masked)) or i
        rows.append(high[i] * z[hp] + (1 - high[i]) * z[hn])
        targets.append(high[i] * eye[y[hp]] + (1 - high[i]) * eye[y[hn]])
    entropy = 0.0
    W, b = model.head.weight.detach().double().numpy(), model.head.bias.detach().double().numpy()
    for row, target in zip(rows, targets, strict=True):
        logits = W @ row + b
        smooth = (1 - smoothing) * target + smoothing / classes
        entropy -= smooth @ (logits - np.log(np.exp(logits).sum())) / len(rows)
    (W1, b1), (W2, b2) = (
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in (method.projector[0], method.projector[2])
    )
    units = [W2 @ np.maximum(W1 @ row + b1, 0) + b2 for row in rows]
    units = [u / np.linalg.norm(u) for u in units]
    keys = [tuple(np.round(target, 6)) for target in targets]
    total, anchors = 0.0, 0
    for i in range(3 * B):
        P = [j for j in range(3 * B) if j != i and keys[j] == keys[i]]
        norm = sum(math.exp(units[i] @ units[k] / use.temperature) for k in range(3 * B) if k != i)
        p = [math.exp(units[i] @ units[j] / use.temperature) / norm for j in P]
        total -= sum((1 - q) * math.log(q) for q in p) / (3 * B if official else max(len(P), 1))
        anchors += bool(P)
    return entropy, use.eta * total / max(anchors, 1)


BATCHES = {"usual": list(range(12)), "one_class": None, "one_row": [3], "two_rows": [0, 1]}


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("preset", [SHIPPED, OFFICIAL], ids=["paper", "official_code"])
def test_the_objective_equals_slow_loops(preset, case):
    rows = BATCHES[case] or (LABELS == 2).nonzero().flatten().tolist()
    for smoothing in (0.0, 0.2):
        method, model = prepared(preset, label_smoothing=smoothing)
        method.step, batch = 5, batch_of(rows)
        terms = method.loss(model, batch).weighted
        official = preset is OFFICIAL
        expected = slow_loss(method, model, batch, C, official, smoothing)
        np.testing.assert_allclose([float(t.detach()) for t in terms.values()], expected, rtol=1e-4)
        assert list(terms) == ["cross_entropy", "contrast"]
        sum(terms.values()).backward()
        assert all(p.grad.isfinite().all() for p in [*model.parameters(), *method.parameters()])


def test_104_classes_with_one_row_each_have_no_positives_but_themselves():
    labels = torch.arange(104)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(104, INPUTS, generator=random)
    method, model = prepared(classes=104)
    batch = Batch(images, labels, labels, torch.zeros_like(labels))
    terms = method.loss(model, batch).weighted
    assert all(term.isfinite() for term in terms.values())
    order, low, high = method.draw(104, torch.device("cpu"))
    mixed = mixing(*hard_pairs(model(images).features, labels, False), order, low, high)
    vectors = mix(one_hot(labels, 104).double(), mixed)
    expected = torch.cdist(vectors, vectors, p=math.inf) < 1e-9
    assert torch.equal(same_labels(labels, mixed, 104), expected)
    assert torch.equal(same_labels(labels, mixed, 104)[:104, :104], torch.eye(104, dtype=torch.bool))


@pytest.mark.parametrize("faithful", ["paper", "official_code"])
def test_originals_teach_the_encoder_in_the_paper_s_form_alone(faithful):
    method, model = prepared(SHIPPED | {"faithful": faithful})
    features, rows = [], []
    model.encoder.register_forward_hook(lambda module, args, out: features.append(out))
    model.head.register_forward_hook(lambda module, args, out: rows.append(args[0]))
    method.loss(model, batch_of(range(8)))
    (features,), rows = features, rows[-1]
    assert torch.equal(rows[:8], features)
    gradients = [
        torch.autograd.grad(part.sum(), features, retain_graph=True)[0].abs().max().item()
        for part in (rows[:8], rows[8:16], rows[16:])
    ]
    assert (gradients[0] > 0) == (faithful == "paper")
    assert min(gradients[1:]) > 0


@pytest.mark.parametrize("preset", [SHIPPED, OFFICIAL], ids=["paper", "official_code"])
def test_the_contrast_trains_projector_and_encoder_but_not_the_head(preset):
    method, model = prepared(preset)
    method.loss(model, batch_of(range(12))).weighted["contrast"].backward()
    assert all(p.grad.abs().sum() > 0 for p in [*method.parameters(), *model.encoder.parameters()])
    assert model.head.weight.grad is None
    assert sum(p.numel() for p in method.parameters()) == D * D + D + 6 * D + 6


@pytest.mark.parametrize("alpha", [1e-4, 0.2, 1.0, 50.0])
def test_draws_follow_seed_and_step_and_the_beta_distribution(alpha):
    method, _ = prepared(SHIPPED | {"alpha": alpha})
    before = torch.get_rng_state()
    order, low, high = method.draw(4000, torch.device("cpu"))
    again = method.draw(4000, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip((order, low, high), again, strict=True))
    assert torch.equal(order.sort().values, torch.arange(4000))
    assert low.dtype == high.dtype == torch.float32
    assert not torch.equal(low, high)
    for shares in (low, high):
        assert 0 <= shares.min() <= shares.max() <= 1
        assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
        assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    method.step += 1
    assert not torch.equal(order, method.draw(4000, torch.device("cpu"))[0])
    other, _ = prepared(SHIPPED | {"alpha": alpha}, seed=1)
    assert not torch.equal(order, other.draw(4000, torch.device("cpu"))[0])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("done", [1, 4])
def test_a_resumed_training_is_bit_identical(done):
    def go(method, model, start, stop):
        optimizer = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.05)
        losses = []
        for i in range(start, stop):
            batch = batch_of([(5 * i + j) % N for j in range(8)])
            method.step = i
            loss = method.loss(model, batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    one, other = prepared(), prepared()
    go(*one, 0, done)
    handed_out = list(other[0].parameters())
    for part, fresh in zip(one, other, strict=True):
        fresh.load_state_dict(copy.deepcopy(part.state_dict()))
    assert all(p is q for p, q in zip(handed_out, other[0].parameters(), strict=True)), "changed in place"
    assert go(*one, done, done + 6) == go(*other, done, done + 6)
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, other[0].state_dict()[name]), name


def test_bfloat16_features_are_compared_in_float32():
    losses = []
    for enabled in (False, True):
        method, model = prepared()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = method.loss(model, batch_of(range(12))).weighted
        assert all(term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
        losses.append([float(term.detach()) for term in terms.values()])
    np.testing.assert_allclose(*losses, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"alpha": 0.0}, "greater than 0"), ({"faithful": "code"}, "'paper' or 'official_code'")],
)
def test_settings_that_cannot_be_are_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        CoreTuningSettings(**SHIPPED | change)
