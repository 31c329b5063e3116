import copy

import pytest
import torch
from torch import nn

from drtune.backbones.classifier import Classifier
from drtune.base.errors import DataError
from drtune.base.seeding import generator
from drtune.methods.sp.fisher import fisher_diagonal, gradients

M, C = 5, 3
IMAGES = torch.randn(M, 3, 6, 6, generator=generator(0))


def network():
    """Convolutions, one of them depthwise, batch norm with statistics of its own, dropout, a head."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 6),
    )  # fmt: skip
    model = Classifier(encoder, 6, C)
    model.train()
    for _ in range(3):
        model(torch.randn(8, 3, 6, 6) * 2 + 1)
    nn.init.normal_(model.head.weight)
    return model


def slow_fisher(model, parameters, images):
    """The definition as a double loop over images and classes, in float64."""
    model, places = copy.deepcopy(model).double().eval(), dict(model.named_parameters())
    twins = dict(model.named_parameters())
    chosen = [twins[name] for p in parameters for name, q in places.items() if p is q]
    total = [torch.zeros_like(p) for p in chosen]
    for image in images.double():
        for k in range(model.num_classes):
            log_f = model(image[None]).logits.log_softmax(1)[0, k]
            for slot, gradient in zip(total, torch.autograd.grad(log_f, chosen), strict=True):
                slot += log_f.detach().exp() * gradient**2
    return torch.cat([slot.flatten() for slot in total]) / len(images)


@pytest.mark.parametrize("at_once", [None, 1, 2, 3, 50])
def test_it_is_the_double_loop_over_images_and_classes(at_once):
    model = network()
    parameters = list(model.encoder.parameters())
    found = fisher_diagonal(model, parameters, IMAGES, at_once)
    assert found.dtype == torch.float32
    expected = slow_fisher(model, parameters, IMAGES)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    assert (expected > 0).float().mean() > 0.5


def test_softmax_regression_has_the_known_diagonal():
    # d log f_k / d W_cj = (1[k = c] - f_c) x_j, hence F_cj = mean of f_c (1 - f_c) x_j²
    torch.manual_seed(0)
    model = Classifier(nn.Flatten(), 108, C)
    found = fisher_diagonal(model, [model.head.weight, model.head.bias], IMAGES)
    x = IMAGES.flatten(1).double()
    f = (x @ model.head.weight.double().T + model.head.bias.double()).softmax(1).detach()
    spread = f * (1 - f)
    expected = torch.cat([(spread.T @ x**2 / M).flatten(), spread.mean(0)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-8)


def test_it_is_not_the_square_of_the_mean_gradient_nor_that_of_the_labels():
    model = network().eval()
    parameters = [model.head.bias]
    logits = model(IMAGES).logits
    of_mean = torch.autograd.grad(logits.log_softmax(1).mean(0).sum(), parameters)[0] ** 2
    assert not torch.allclose(fisher_diagonal(model, parameters, IMAGES), of_mean, rtol=0.1)


def test_it_adds_up_over_images():
    model = network()
    parameters = list(model.encoder.parameters())
    parts = [fisher_diagonal(model, parameters, IMAGES[i : i + 1]) for i in range(M)]
    torch.testing.assert_close(torch.stack(parts).mean(0), fisher_diagonal(model, parameters, IMAGES))


def test_the_model_stays_as_it_was():
    model = network()
    model.encoder[1].eval()
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    model.encoder[0].bias.requires_grad_(False)
    found = fisher_diagonal(model, [model.encoder[0].weight], IMAGES)
    assert not found.requires_grad
    assert flags == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.encoder[0].parameters()] == [True, False]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_head_that_says_nothing_gives_zero_and_what_is_not_used_gives_zero():
    model = network()
    nn.init.zeros_(model.head.weight)
    assert fisher_diagonal(model, list(model.encoder.parameters()), IMAGES).abs().max() == 0
    model.spare = nn.Linear(2, 2)
    found = fisher_diagonal(model, [model.spare.weight, model.head.bias], IMAGES, at_once=3)
    assert found[:4].tolist() == [0] * 4
    assert (found[4:] > 0).all()


class Stubborn(torch.autograd.Function):
    """The identity, with a backward pass that looks at its values: nothing that can be vectorised."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        assert gradient.abs().max().item() >= 0
        return gradient


class Layer(nn.Module):
    def forward(self, x):
        return Stubborn.apply(x)


def test_a_layer_that_cannot_be_vectorised_is_taken_class_by_class():
    model = network()
    stubborn = copy.deepcopy(model)
    stubborn.encoder.append(Layer())
    parameters = list(stubborn.encoder.parameters())
    scores = stubborn.eval()(IMAGES[:1]).logits[0]
    with pytest.raises(RuntimeError):
        torch.autograd.grad(scores, parameters, torch.eye(C), is_grads_batched=True)
    expected = fisher_diagonal(model, list(model.encoder.parameters()), IMAGES, at_once=3)
    found = fisher_diagonal(stubborn, parameters, IMAGES, at_once=3)
    torch.testing.assert_close(found, expected)


def test_gradients_are_the_rows_of_the_jacobian():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    outputs = torch.stack([w[0] * w[1], w[0] ** 2, w[1]])
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 2]])
    assert gradients(outputs, [w], rows).tolist() == [[2.0, 1.0], [2.0, 2.0]]
    assert gradients(outputs, [w], rows[:1]).tolist() == [[2.0, 1.0]]


def test_no_image_is_refused():
    model = network()
    with pytest.raises(DataError, match="Fisher information needs images, and there is none"):
        fisher_diagonal(model, list(model.encoder.parameters()), [])
