import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.errors import ConfigError
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.delta.method import DELTA, channel_weights, map_distance
from drtune.methods.delta.settings import DELTASettings
from drtune.training.settings import TrainSettings

N, D, C = 24, 6, 3
IMAGES = torch.randn(N, 3, 8, 8, generator=generator(0))
LABELS = torch.randint(C, (N,), generator=generator(1))
OFFICIAL = {
    "layers": ["0", "3"], "alpha": 0.01, "beta": 0.01, "channel_weights": "loss", "attention_batches": 4,
    "reduction": "sum",
}  # fmt: skip


def classifier():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, D),
    )  # fmt: skip
    return Classifier(encoder, D, C).train()


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


BATCHES = [batch_of(range(8)), batch_of(range(8, 16)), batch_of(range(16, 24))]


def method_of(**change):
    train = {"label_smoothing": 0.0, "precision": "no", "seed": 0}
    train |= {key: change.pop(key) for key in list(change) if key in train}
    return DELTA(DELTASettings(**OFFICIAL | change), TrainSettings.model_construct(**train))


def moved(model):
    """The model after a few large steps, so that its maps are far from the source's."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return model


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def official_weights(rises):
    """train.py:109-116 of the official code, in NumPy."""
    js = rises.double().numpy()
    js = (js - np.mean(js)) / np.std(js)
    return np.exp(js / 5) / np.exp(js / 5).sum()


def official_penalty(tuned, source, weights):
    """train.py:167-178 of the official code, value by value in float64."""
    total = 0.0
    for layer, w in weights.items():
        now, before = tuned[layer].detach().double().numpy(), source[layer].double().numpy()
        b, c, h, width = before.shape
        for i in range(b):
            for j in range(c):
                norm = np.sqrt(sum((now[i, j] - before[i, j]).flatten() ** 2))
                total += 0.5 * c * float(w[j]) * norm**2 / (h * width)
    return total


def maps(encoder, images):
    return {"0": encoder[:1](images), "3": encoder[:4](images)}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["uniform", "loss"])
@pytest.mark.parametrize("rows", [range(8), [5], range(3)], ids=["plain", "one_image", "short"])
def test_the_objective_equals_the_official_loops(kind, reduction, rows):
    model, method = classifier(), method_of(channel_weights=kind, reduction=reduction, label_smoothing=0.1)
    source = copy.deepcopy(model.encoder).eval()
    method.prepare(model, None, BATCHES)
    moved(model).eval()
    batch = batch_of(list(rows))
    terms = method.loss(model, batch).weighted
    with torch.no_grad():
        before, now = maps(source, batch.images), maps(model.encoder, batch.images)
    expected = official_penalty(now, before, method.weights) * 0.01
    expected /= len(batch.labels) if reduction == "mean" else 1
    np.testing.assert_allclose(terms["feature_maps"].item(), expected, rtol=1e-4)
    assert expected > 1e-4
    head = sum(float((p.detach().double() ** 2).sum()) for p in (model.head.weight, model.head.bias))
    np.testing.assert_allclose(terms["head_decay"].item(), 0.01 / 2 * head, rtol=1e-5)
    logits = model(batch.images).logits
    torch.testing.assert_close(
        terms["cross_entropy"], cross_entropy(logits, batch.labels, label_smoothing=0.1)
    )


def test_the_attention_is_the_official_one_over_the_first_batches():
    for count, used in ((1, 1), (2, 2), (9, 3)):
        model, method = classifier(), method_of(attention_batches=count)
        method.prepare(model, None, BATCHES)
        model.eval()
        for layer in (0, 3):
            rises = torch.zeros(model.encoder[layer].out_channels, dtype=torch.float64)
            for i, batch in enumerate(BATCHES[:used]):
                whole = cross_entropy(model(batch.images).logits, batch.labels)
                for c in range(len(rises)):
                    other = copy.deepcopy(model)
                    other.encoder[layer].weight.data[c] = 0
                    other.encoder[layer].bias.data[c] = 0
                    rise = cross_entropy(other(batch.images).logits, batch.labels) - whole
                    rises[c] = (i * rises[c] + rise.item()) / (i + 1)
            np.testing.assert_allclose(method.weights[str(layer)], official_weights(rises), rtol=1e-3)


def test_weights_sum_to_one_follow_the_rises_and_are_equal_without_any():
    weights = channel_weights(torch.tensor([0.3, -0.1, 0.2, 0.0], dtype=torch.float64))
    assert weights.sum().item() == pytest.approx(1.0)
    assert weights.argsort().tolist() == [1, 3, 2, 0]
    assert channel_weights(torch.full((4,), 0.1, dtype=torch.float64)).tolist() == [0.25] * 4
    assert channel_weights(torch.zeros(1)).tolist() == [1.0]


def test_equal_weights_are_the_mean_over_positions_of_the_squared_distance():
    now, before = torch.randn(2, 5, 7, generator=generator(2)), torch.randn(2, 5, 7, generator=generator(3))
    found = map_distance(now, before, torch.full((5,), 0.2))
    torch.testing.assert_close(found, 0.5 * ((now - before) ** 2).sum() / 7)
    assert map_distance(now.bfloat16(), before.bfloat16(), torch.full((5,), 0.2)).dtype == torch.float32


def test_the_mean_does_not_depend_on_how_often_an_image_comes():
    model, values = classifier(), {}
    for reduction in ("sum", "mean"):
        method = method_of(reduction=reduction, channel_weights="uniform")
        method.prepare(classifier(), None, BATCHES)
        trained = moved(copy.deepcopy(model)).eval()
        once, twice = (
            method.loss(trained, batch_of([1, 2, 3] * n)).weighted["feature_maps"].item() for n in (1, 2)
        )
        values[reduction] = twice / once
    np.testing.assert_allclose([values["sum"], values["mean"]], [2.0, 1.0], rtol=1e-4)


def test_the_source_stays_as_it_was_and_only_the_model_learns():
    model, method = classifier(), method_of()
    method.prepare(model, None, BATCHES)
    before = copy.deepcopy(method.source.module.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for batch in BATCHES:
        method.loss(model, batch).total.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.source.module.state_dict().items())
    assert not method.source.module.training
    assert all(p.grad is None and not p.requires_grad for p in method.source.module.parameters())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_at_the_start_in_eval_mode_there_is_no_distance_in_any_precision(precision):
    model, method = classifier().eval(), method_of(precision=precision)
    method.prepare(model, None, BATCHES)
    forward = model.forward

    def autocast(images):  # within the model's own forward and not around the method, as Accelerate does
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return forward(images)

    model.forward = autocast
    assert method.loss(model, BATCHES[0]).weighted["feature_maps"].item() == 0.0


def test_prepare_leaves_flags_gradients_and_random_state_and_no_hook_stays():
    model, method = classifier(), method_of()
    model.encoder[1].eval()
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    values = copy.deepcopy(model.state_dict())
    method.prepare(model, None, BATCHES)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    method.loss(SimpleModule(model), BATCHES[0])
    with pytest.raises(RuntimeError):
        method.loss(model, BATCHES[0]._replace(images=torch.zeros(2, 7, 8, 8)))
    assert hooks(model) == hooks(method.source.module) == 0
    assert pickle.loads(pickle.dumps(copy.deepcopy(model))).num_classes == C


class SimpleModule(nn.Module):
    """A wrapper as those for distributed training."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return self.module(images)


def test_auto_takes_the_ends_of_the_stages_and_tokens_count_as_positions():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.block = nn.Conv2d(3, D, 4, 4), nn.Linear(D, D)
            self.feature_info = [{"module": "block", "reduction": 4}]

        def forward(self, images):
            return self.block(self.patches(images).flatten(2).mT).mean(dim=1)

    torch.manual_seed(0)
    model, method = Classifier(Tokens(), D, C), method_of(layers="auto", channel_weights="uniform", alpha=1.0)
    method.prepare(model, None, BATCHES)
    assert {name: len(values) for name, values in method.weights.items()} == {"block": D}
    before = model.encoder.block(model.encoder.patches(BATCHES[0].images).flatten(2).mT).detach()
    model.encoder.block.bias.data += 0.5
    found = method.loss(model, BATCHES[0]).weighted["feature_maps"].item()
    assert before.shape == (8, 4, D)
    assert found == pytest.approx(0.5 * 8 * D * 0.25, rel=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "loss"])
def test_a_resumed_training_is_bit_identical(kind):
    def begin():
        model, method = classifier(), method_of(channel_weights=kind)
        method.prepare(model, None, BATCHES)
        return model, method, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def go(parts, start, stop):
        model, method, optimizer = parts
        losses = []
        for i in range(start, stop):
            loss = method.loss(model, BATCHES[i % 3]).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    one, other = begin(), begin()
    go(one, 0, 5)
    other[1].attention.fill_(0.5)  # so that only the saved weights can be right
    for part, fresh in zip(one, other, strict=True):
        fresh.load_state_dict(copy.deepcopy(part.state_dict()))
    assert set(one[1].state_dict()) == {"attention"}
    assert go(one, 5, 9) == go(other, 5, 9)


@pytest.mark.parametrize(
    ("layers", "text"), [("auto", "auto takes the stages"), (["conv"], "'conv' is unknown")]
)
def test_layers_that_are_not_there_are_refused(layers, text):
    with pytest.raises(ConfigError, match=rf"methods\.delta\.layers: .*{text}"):
        method_of(layers=layers).prepare(classifier(), None, BATCHES)


def test_attention_wants_a_head_that_classifies():
    settings = DELTASettings(**OFFICIAL)
    for start in ("normal", "zero"):
        [(name, text)] = settings.cross_faults(SimpleNamespace(head_init=start))
        assert name == "methods.delta.channel_weights"
        assert text.startswith("loss needs a head that classifies already")
        assert (
            f"train.head_init is {start}: set train.head_init: bank, or methods.delta.channel_weights" in text
        )
    assert settings.cross_faults(SimpleNamespace(head_init="bank")) == []
    uniform = DELTASettings(**OFFICIAL | {"channel_weights": "uniform"})
    assert uniform.cross_faults(SimpleNamespace(head_init="normal")) == []


def test_no_layer_at_all_is_no_choice():
    with pytest.raises(ValidationError, match="at least 1 item"):
        DELTASettings(**OFFICIAL | {"layers": []})
