import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier, init_head
from drtune.base.errors import TrainingError
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.daft.method import DAFT
from drtune.methods.daft.settings import DAFTSettings
from drtune.training.settings import TrainSettings

N, D, C = 20, 6, 3
IMAGES = torch.randn(N, 3, 6, 6, generator=generator(0)) * 4 + 3
LABELS = torch.arange(N) % C


def classifier():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, D, 3), nn.BatchNorm2d(D), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return Classifier(encoder, D, C).train()


def batch_of(rows):
    index = torch.as_tensor(rows)
    return Batch(IMAGES[index], LABELS[index], index, torch.zeros_like(index))


BATCHES = [batch_of(range(8)), batch_of(range(8, 16)), batch_of(range(16, 20))]


def method_of(statistics="total_variance", label_smoothing=0.0):
    train = TrainSettings.model_construct(label_smoothing=label_smoothing, seed=0)
    return DAFT(DAFTSettings(statistics=statistics), train)


@torch.no_grad()
def logits(model, mode):
    model = copy.deepcopy(model).train(mode == "train")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return model(IMAGES).logits


@pytest.mark.parametrize("statistics", ["total_variance", "official"])
def test_conversion_keeps_eval_mode_and_brings_train_mode_near_it(statistics):
    model = classifier()
    before = logits(model, "eval")
    apart = (logits(model, "train") - before).norm()
    method_of(statistics=statistics).prepare(model, None, BATCHES)
    torch.testing.assert_close(logits(model, "eval"), before, rtol=0, atol=1e-4)
    assert apart > 0.5
    assert (logits(model, "train") - before).norm() < 0.2 * apart


def test_total_variance_makes_the_two_modes_agree_on_the_whole_set():
    model = classifier()
    method_of().prepare(model, None, BATCHES)
    # all that is left is the n - 1 of the running variance, against n of a batch in train mode
    torch.testing.assert_close(logits(model, "train"), logits(model, "eval"), rtol=0.02, atol=0.02)


def test_prepare_leaves_flags_gradients_and_hooks_as_they_were():
    model = classifier()
    model.encoder[1].eval()
    model.encoder[0].weight.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    method_of().prepare(model, None, BATCHES)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_zero_head_sends_nothing_into_the_encoder_at_the_first_step():
    model, method = classifier(), method_of()
    init_head(model.head, "zero", generator(0))
    method.prepare(model, None, BATCHES)
    terms = method.loss(model, BATCHES[0]).weighted
    sum(terms.values()).backward()
    assert terms["cross_entropy"].item() == pytest.approx(torch.log(torch.tensor(float(C))).item())
    assert all((p.grad == 0).all() for p in model.encoder.parameters())
    assert model.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy(smoothing):
    model, method = classifier(), method_of(label_smoothing=smoothing)
    method.prepare(model, None, BATCHES)
    model.eval()
    expected = cross_entropy(model(BATCHES[2].images).logits, LABELS[16:20], label_smoothing=smoothing)
    loss = method.loss(model, BATCHES[2])
    assert loss.terms == {"cross_entropy": expected}
    assert torch.equal(loss.total, expected)


def test_a_resumed_training_converts_to_the_same_start_and_takes_the_checkpoint():
    one, other = classifier(), classifier()
    for model in (one, other):
        method_of().prepare(model, None, BATCHES)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in one.state_dict().items())
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    for batch in BATCHES:
        method_of().loss(one, batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    other.load_state_dict(one.state_dict())  # statistics are buffers, so the checkpoint holds them
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in one.state_dict().items())
    torch.testing.assert_close(logits(one, "eval"), logits(other, "eval"), rtol=0, atol=0)


def test_a_backbone_without_batch_norm_is_refused_before_anything_changes():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, D), nn.LayerNorm(D)), D, C)
    before = copy.deepcopy(model.state_dict())
    text = r"daft converts batch norm layers, and the backbone \(Sequential\) has none .* choose lp_ft"
    with pytest.raises(TrainingError, match=text):
        method_of().prepare(model, None, BATCHES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
