"""Parameter groups, optimisers and learning rate schedules, from `train` in params.yaml."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from drtune.backbones.classifier import Classifier
from drtune.training.settings import TrainSettings


def parameter_groups(
    model: Classifier, settings: TrainSettings, extra: Iterable[nn.Parameter] = ()
) -> list[dict[str, object]]:
    """Trainable parameters as groups `backbone`, `head` and `method`, each with its own learning rate.

    Where `decay_norm_and_bias` is false, vectors (biases, norm scales) form groups without weight decay.
    The method's own parameters, `extra`, learn at the head's rate.
    """
    rates = {"backbone": settings.lr_backbone, "head": settings.lr_head, "method": settings.lr_head}
    members_of = {"backbone": model.encoder.parameters(), "head": model.head.parameters(), "method": extra}
    groups: list[dict[str, object]] = []
    for name, parameters in members_of.items():
        trainable = [p for p in parameters if p.requires_grad]
        matrices = [p for p in trainable if p.ndim > 1 or settings.decay_norm_and_bias]
        vectors = [p for p in trainable if p.ndim <= 1 and not settings.decay_norm_and_bias]
        for members, decay in ((matrices, settings.weight_decay), (vectors, 0.0)):
            if members:
                groups.append({"params": members, "lr": rates[name], "weight_decay": decay, "name": name})
    return groups


def build_optimizer(
    model: Classifier, settings: TrainSettings, extra: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """SGD (momentum, Nesterov as set) or AdamW over `parameter_groups`; one kernel does it all on CUDA."""
    groups = parameter_groups(model, settings, extra)
    fused = model.head.weight.device.type == "cuda" or None  # None: as PyTorch does by itself
    if settings.optimizer == "adamw":
        return AdamW(groups, fused=fused)
    return SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused)


def build_schedule(optimizer: Optimizer, settings: TrainSettings, epochs: int, steps: int) -> LambdaLR:
    """Schedule to be advanced after every step of `epochs` epochs with `steps` steps each."""
    return LambdaLR(optimizer, lambda step: factor(step, settings, epochs, steps))


def factor(step: int, settings: TrainSettings, epochs: int, steps: int) -> float:
    """Learning rate at a step as a fraction of its peak.

    Linear warm-up, then `cosine` 0.5 (1 + cos(pi t)), `linear` 1 - t or `constant`, with t from 0 to 1 over
    the rest. With `schedule_every: epoch` t moves once an epoch, as in weeknan/DR-Tune utils.py:181-193 at
    ef9a7b1.
    """
    warmup = settings.warmup_epochs * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule_every == "epoch":
        step = step // steps * steps
    progress = min(max(step - warmup, 0) / max(epochs * steps - warmup, 1), 1.0)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if settings.schedule == "linear" else 1.0
