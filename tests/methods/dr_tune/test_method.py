import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from drtune.backbones.classifier import Classifier
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.errors import BankError
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.dr_tune.method import DRTune
from drtune.methods.dr_tune.settings import DRTuneSettings
from drtune.training.contract import Loss
from drtune.training.settings import TrainSettings

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden" / "dr_tune_official.safetensors"
OFFICIAL = {
    "weight": "bank_over_batch", "loss_scale": "mean", "bank": "precomputed", "bank_size": 32,
    "rows_per_step": None, "normalize": True, "rotation": "proper", "rotation_center": True,
    "rotation_every": 10, "rotation_between": "none", "translation": True, "confidence": "cosine",
    "temperature": 1.0, "rescale": "batch",
}  # fmt: skip
PAPER = OFFICIAL | {
    "loss_scale": "sum", "normalize": False, "rotation": "orthogonal", "rotation_center": False,
    "rotation_every": 1, "rotation_between": "keep", "confidence": "dot", "rescale": "off",
}  # fmt: skip
HEADER = BankHeader(
    backbone="toy", weights_sha256="aa", data_sha256="bb", transform="{}", views=1, augmented=False,
    augment_seed=0, dtype="float32",
)  # fmt: skip
N, INPUTS, D, C = 40, 7, 10, 4
IMAGES = torch.randn(N, INPUTS, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))


def train_settings(**change):
    """The settings that the method reads, and no others."""
    return TrainSettings.model_construct(**{"batch_size": 8, "seed": 0, "label_smoothing": 0.0} | change)


def classifier(state=None):
    torch.manual_seed(0)
    if state is None:
        return Classifier(nn.Sequential(nn.Linear(INPUTS, D), nn.ReLU()), D, C)
    width, inputs = state["encoder.weight"].shape
    model = Classifier(nn.Sequential(nn.Linear(inputs, width), nn.ReLU()), width, len(state["head.weight"]))
    model.load_state_dict({name.replace("encoder.", "encoder.0."): value for name, value in state.items()})
    return model


def bank_of(model, images=IMAGES, labels=LABELS):
    with torch.no_grad():
        features = torch.stack(
            [model.encoder(view) for view in images.reshape(-1, len(labels), images.shape[-1])]
        )
    return FeatureBank.from_tensors(features, labels, [str(i) for i in range(len(labels))], HEADER)


def method_of(preset, **change):
    train = {key: change.pop(key) for key in ("label_smoothing", "seed") if key in change}
    return DRTune(DRTuneSettings(**preset | change), train_settings(**train))


def batch_of(rows, images=IMAGES, labels=LABELS):
    index = torch.as_tensor(rows)
    return Batch(images[index], labels[index], index, torch.zeros_like(index))


def step(method, model, optimizer, batch):
    loss = method.loss(model, batch)
    optimizer.zero_grad()
    loss.total.backward()
    optimizer.step()
    method.after_step(batch, loss.kept)
    method.step += 1
    return loss.total.item()


def close(found, expected):
    """Within 1e-4 of the largest value, the relative measure of a tensor."""
    assert (found.detach() - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("source", ["precomputed", "online"])
@pytest.mark.parametrize("case", ["trajectory0", "trajectory1"])
def test_parity_with_the_official_training(case, source):
    if not GOLDEN.is_file():
        pytest.skip("official tensors are not beside the repository (../shared/golden)")
    of = {k.removeprefix(f"{case}."): v for k, v in load_file(GOLDEN).items() if k.startswith(case)}
    model = classifier({k.removeprefix("init."): v for k, v in of.items() if k.startswith("init.")})
    warmup, inputs = of["warmup.inputs"].flatten(0, 1), of["inputs"].flatten(0, 1)
    images = torch.cat([warmup, inputs])
    labels = torch.cat([of["warmup.labels"].flatten(), of["labels"].flatten()])
    method = method_of(OFFICIAL, bank=source, bank_size=len(warmup))
    bank = bank_of(model, images, labels)
    method.prepare(model, bank, [])
    rows = torch.arange(len(warmup))
    first = method.in_ring(bank.rows(torch.zeros_like(rows), rows))
    method.ring.push(first, first, labels[rows])  # in the order of the official warm-up
    groups = [
        {"params": model.encoder.parameters(), "lr": 0.01},
        {"params": model.head.parameters(), "lr": 0.33},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = range(len(warmup), len(images), of["inputs"].shape[1])
    losses = [
        step(method, model, optimizer, batch_of(range(i, i + of["inputs"].shape[1]), images, labels))
        for i in steps
    ]
    torch.testing.assert_close(torch.tensor(losses), of["losses"], rtol=1e-4, atol=0)
    for name, value in model.state_dict().items():
        close(value, of["final." + name.replace("encoder.0.", "encoder.")])
    close(method.ring.pretrained, normalize(of["final.pretrained_bank"]))
    close(method.ring.downstream, normalize(of["final.downstream_bank"]))
    assert torch.equal(method.ring.labels, of["final.labels"])


def paper_loss(features, labels, weight, bias, pairs):
    """Eq. 5-14 as printed, in float64 loops: pairs are (v^p, v^d, y), oldest first or not."""
    W, b = weight.detach().double().numpy(), bias.detach().double().numpy()
    P, Q = (np.stack([pair[i].detach().double().numpy() for pair in pairs]) for i in (0, 1))
    y = [int(pair[2]) for pair in pairs]
    U, _, Vh = np.linalg.svd(sum(np.outer(q, p) for p, q in zip(P, Q, strict=True)))
    R = U @ Vh  # (7)
    calibrated = []
    for k, c in enumerate(y):
        same = [j for j in range(len(y)) if y[j] == c]
        mean_p = sum(R @ P[j] for j in same) / len(same)  # (8)
        raw = {j: np.exp(W[c] @ Q[j]) for j in same}
        mean_d = sum(raw[j] / sum(raw.values()) * Q[j] for j in same)  # (9), (10)
        calibrated.append(R @ P[k] + mean_d - mean_p)  # (11), (12)

    def mean_entropy(rows, classes):
        total = 0.0
        for row, c in zip(rows, classes, strict=True):
            logits = W @ row + b
            total -= logits[c] - np.log(np.exp(logits).sum())
        return total / len(classes)

    batch = mean_entropy(features.detach().double().numpy(), labels.tolist())
    return batch, len(pairs) / len(labels) * mean_entropy(calibrated, y)  # (13), (14)


def test_the_paper_s_form_equals_its_equations_step_by_step():
    model, method = classifier(), method_of(PAPER, bank_size=24)
    method.prepare(model, bank := bank_of(model), [])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pairs = list(zip(method.ring.pretrained, method.ring.downstream, method.ring.labels, strict=True))
    pairs = [tuple(tensor.clone() for tensor in pair) for pair in pairs]
    for number in range(6):
        size = 8 if number % 2 else 5
        batch = batch_of([(8 * number + j) % N for j in range(size)])
        features = model(batch.images).features
        expected = paper_loss(features, batch.labels, model.head.weight, model.head.bias, pairs)
        terms = method.loss(model, batch).weighted
        np.testing.assert_allclose([float(t.detach()) for t in terms.values()], expected, rtol=1e-4)
        step(method, model, optimizer, batch)
        old = bank.rows(batch.view, batch.index)
        pairs = (pairs + list(zip(old, features.detach(), batch.labels, strict=True)))[-24:]


@pytest.mark.parametrize("preset", [OFFICIAL, PAPER], ids=["official", "paper"])
def test_the_encoder_learns_from_the_batch_alone_and_the_head_from_both(preset):
    model, method = classifier(), method_of(preset)
    method.prepare(model, bank_of(model), [])
    batch = batch_of(range(8))
    terms = method.loss(model, batch).weighted
    sum(terms.values()).backward()
    encoder, head = model.encoder[0].weight.grad.clone(), model.head.weight.grad.clone()
    model.zero_grad()
    share = 8 / (8 + 32) if preset is OFFICIAL else 1.0
    (share * cross_entropy(model(batch.images).logits, batch.labels)).backward()
    torch.testing.assert_close(encoder, model.encoder[0].weight.grad)
    assert not torch.allclose(head, model.head.weight.grad, rtol=0.1)


def test_the_mean_is_the_sum_divided_by_one_plus_the_weight():
    values = {}
    for scale in ("sum", "mean"):
        model, method = classifier(), method_of(PAPER, loss_scale=scale, weight=0.5)
        method.prepare(model, bank_of(model), [])
        values[scale] = [float(t.detach()) for t in method.loss(model, batch_of(range(8))).weighted.values()]
    np.testing.assert_allclose(np.array(values["sum"]) / 1.5, values["mean"], rtol=1e-6)


@pytest.mark.parametrize(("rows", "bank"), [(8, 32), (5, 3), (1, 1)])
def test_mean_with_bank_over_batch_is_one_mean_over_all_rows(rows, bank):
    model, method = classifier(), method_of(OFFICIAL, bank_size=bank)
    method.prepare(model, bank_of(model), [])
    logits = torch.randn(rows + bank, C, generator=generator(rows))
    labels = torch.randint(C, (rows + bank,), generator=generator(bank))
    terms = {
        "cross_entropy": cross_entropy(logits[:rows], labels[:rows]),
        "distribution": cross_entropy(logits[rows:], labels[rows:]),
    }
    torch.testing.assert_close(Loss(terms, method.weights(rows)).total, cross_entropy(logits, labels))


@pytest.mark.parametrize(("scale", "expected"), [("sum", (1.0, 0.25)), ("mean", (0.8, 0.2))])
def test_a_mean_of_any_weight_keeps_the_ratio_of_the_terms(scale, expected):
    weights = method_of(PAPER, loss_scale=scale, weight=0.25).weights(8)
    assert weights == pytest.approx(dict(zip(("cross_entropy", "distribution"), expected, strict=True)))


def test_label_smoothing_acts_on_the_batch_alone():
    model, batch = classifier(), batch_of(range(8))
    terms = []
    for smoothing in (0.0, 0.2):
        method = method_of(PAPER, label_smoothing=smoothing)
        method.prepare(model, bank_of(model), [])
        terms.append(method.loss(model, batch).terms)
    expected = cross_entropy(model(batch.images).logits, batch.labels, label_smoothing=0.2)
    torch.testing.assert_close(terms[1]["cross_entropy"], expected)
    assert terms[0]["cross_entropy"] != terms[1]["cross_entropy"]
    torch.testing.assert_close(terms[0]["distribution"], terms[1]["distribution"])


def test_the_ring_starts_with_training_images_drawn_by_the_seed():
    model = classifier()
    bank = bank_of(model)
    rings = []
    for seed in (0, 0, 1):
        method = method_of(PAPER, bank_size=16, seed=seed)
        method.prepare(model, bank, [])
        rings.append(method.ring)
    all_rows = bank.rows(torch.zeros(N, dtype=torch.long), torch.arange(N))
    places = [(all_rows == row).all(dim=1).nonzero().flatten().tolist() for row in rings[0].pretrained]
    assert len({tuple(place) for place in places}) == len(rings[0]) == 16
    assert all(label == LABELS[place[0]] for place, label in zip(places, rings[0].labels, strict=True))
    assert torch.equal(rings[0].pretrained, rings[0].downstream)
    assert torch.equal(rings[0].pretrained, rings[1].pretrained)
    assert not torch.equal(rings[0].pretrained, rings[2].pretrained)


def test_fewer_images_than_k_make_a_smaller_ring_without_random_rows():
    model, method = classifier(), method_of(PAPER, bank_size=2048)
    bank = bank_of(model)
    method.prepare(model, bank, [])
    assert len(method.ring) == N
    expected = bank.rows(torch.zeros(N, dtype=torch.long), torch.arange(N))
    torch.testing.assert_close(method.ring.pretrained.sum(0), expected.sum(0))
    assert torch.equal(method.ring.labels.bincount(), LABELS.bincount())


def test_a_step_sees_the_view_that_its_batch_replays():
    model, method = classifier(), method_of(PAPER)
    bank = bank_of(model, torch.stack([IMAGES, IMAGES + 1]))
    method.prepare(model, bank, [])
    index, view = torch.tensor([3, 4, 5]), torch.tensor([1, 0, 1])
    batch = Batch(IMAGES[index], LABELS[index], index, view)
    method.after_step(batch, method.loss(model, batch).kept)
    assert torch.equal(method.ring.pretrained[:3], bank.rows(view, index))
    assert torch.equal(method.ring.labels[:3], LABELS[index])


def test_online_features_come_from_the_encoder_as_it_was_and_do_not_change_it():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(INPUTS, D), nn.BatchNorm1d(D), nn.Dropout(0.5))
    model = Classifier(encoder, D, C).eval()
    method = method_of(PAPER, bank="online")
    bank = bank_of(model)
    method.prepare(model, bank, [])
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.5)
    for start in (0, 8, 16, 24):
        step(method, model, optimizer, batch_of(range(start, start + 8)))
    expected = bank.rows(torch.zeros(32, dtype=torch.long), torch.arange(32))
    torch.testing.assert_close(method.ring.pretrained, expected)
    assert not torch.allclose(method.ring.downstream, expected, atol=0.1)


@pytest.mark.parametrize("between", ["keep", "none"])
def test_the_rotation_is_refreshed_on_time_and_kept_or_dropped_in_between(between):
    model = classifier()
    method = method_of(PAPER, rotation_every=3, rotation_between=between)
    method.prepare(model, bank_of(model), [])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    for number in range(7):
        rotation = method.current_rotation()
        seen.append(None if rotation is None else rotation.clone())
        step(method, model, optimizer, batch_of([(8 * number + j) % N for j in range(8)]))
    fresh = [
        i
        for i in range(7)
        if seen[i] is not None and (i == 0 or seen[i - 1] is None or not torch.equal(seen[i], seen[i - 1]))
    ]
    assert fresh == [0, 3, 6]
    assert [rotation is None for rotation in seen] == [between == "none" and i % 3 != 0 for i in range(7)]
    assert not torch.allclose(seen[3], torch.eye(D), atol=1e-3)


def distributions(change, steps):
    """R_DR of some steps on the same ring, head and batch."""
    model = classifier()
    method = method_of(PAPER | {"weight": 1.0} | change)
    method.prepare(model, bank_of(model), [])
    random = generator(3)
    pair = (method.in_ring(torch.rand(20, D, generator=random)) for _ in range(2))
    method.ring.push(*pair, LABELS[:20])
    values = []
    for method.step in range(steps):
        values.append(method.loss(model, batch_of(range(8))).weighted["distribution"].detach())
    return torch.stack(values)


@pytest.mark.parametrize(
    "change", [{}, {"translation": False}, {"rescale": "batch"}, {"normalize": True}], ids=str
)
def test_turns_of_the_ring_add_up_to_the_whole_calibrated_as_a_whole(change):
    whole = distributions(change, 1)
    turns = distributions(change | {"rows_per_step": 8}, 4)
    assert turns.std() > 0.01
    torch.testing.assert_close(turns.mean(), whole[0])


@pytest.mark.parametrize("rows", [32, 512])
def test_a_ring_of_no_more_rows_than_a_turn_is_taken_whole(rows):
    assert torch.equal(distributions({"rows_per_step": rows}, 3), distributions({}, 3))


PARTS_OFF = {
    "rotation": "off",
    "translation": False,
    "rescale": "off",
    "confidence": "off",
    "normalize": False,
}


@pytest.mark.parametrize("part", PARTS_OFF)
def test_each_part_can_be_switched_off_and_matters(part):
    model, random = classifier(), generator(2)
    pair = [torch.rand(32, D, generator=random) for _ in range(2)]
    values = []
    for change in ({}, {part: PARTS_OFF[part]}):
        method = method_of(OFFICIAL | change)
        method.prepare(model, bank_of(model), [])
        method.ring.push(*map(method.in_ring, pair), LABELS[:32])
        values.append(float(method.loss(model, batch_of(range(8))).weighted["distribution"].detach()))
    assert np.isfinite(values).all()
    assert abs(values[0] - values[1]) > 1e-4


def test_without_calibration_the_bank_is_classified_as_it_is():
    model = classifier()
    method = method_of(PAPER, rotation="off", translation=False, weight=1.0)
    method.prepare(model, bank_of(model), [])
    terms = method.loss(model, batch_of(range(8))).weighted
    expected = cross_entropy(model.head(method.ring.pretrained), method.ring.labels)
    torch.testing.assert_close(terms["distribution"], expected)
    assert "rotation" not in method.state_dict()


@pytest.mark.parametrize(
    "preset",
    [OFFICIAL, PAPER | {"rotation_every": 4}, PAPER | {"rows_per_step": 10}],
    ids=["official", "kept", "by turns"],
)
@pytest.mark.parametrize("done", [1, 6, 10])
def test_a_resumed_training_is_bit_identical(preset, done):
    def begin():
        model = classifier()
        method = method_of(preset)
        method.prepare(model, bank_of(classifier()), [])
        return model, method, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def go(parts, start, stop):
        model, method, optimizer = parts
        return [
            step(method, model, optimizer, batch_of([(5 * i + j) % N for j in range(8)]))
            for i in range(start, stop)
        ]

    one, other = begin(), begin()
    go(one, 0, done)
    for part, fresh in zip(one, other, strict=True):
        fresh.load_state_dict(copy.deepcopy(part.state_dict()))
    other[1].step = done
    assert all(torch.is_tensor(value) for value in one[1].state_dict().values())
    assert go(one, done, done + 12) == go(other, done, done + 12)
    for name, value in one[1].state_dict().items():
        assert torch.equal(value, other[1].state_dict()[name]), name


def test_no_bank_and_a_bank_of_another_width_are_refused():
    model, method = classifier(), method_of(PAPER)
    with pytest.raises(BankError, match=r"dr_tune needs the feature bank.*dvc repro extract"):
        method.prepare(model, None, [])
    narrow = FeatureBank.from_tensors(torch.zeros(1, N, D - 1), LABELS, ["x"] * N, HEADER)
    with pytest.raises(BankError, match="has 9 features a row, the model 10; run `dvc repro extract`"):
        method.prepare(model, narrow, [])


def test_a_batch_larger_than_the_ring_is_a_fault_of_the_settings():
    settings = DRTuneSettings(**PAPER | {"bank_size": 128})
    assert settings.cross_faults(train_settings(batch_size=128)) == []
    assert settings.cross_faults(train_settings(batch_size=256)) == [
        ("train.batch_size", "256 exceeds methods.dr_tune.bank_size 128; a batch must fit in the ring")
    ]
