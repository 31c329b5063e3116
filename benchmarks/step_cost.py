"""Time of a training step: plain fine-tuning, DR-Tune in both forms, what its official code would cost, and
every other method.

    python -m benchmarks.step_cost                                      (in the project folder)
    python -m benchmarks.step_cost --backbone resnet50 --classes 200 --rounds 5 --parts

All are `Trainer.step` with the method's settings in params.yaml but for the official code, `Official` below;
all have the official optimiser and batch norm mode. One process, one random batch, a bank in memory; they
take turns. A round is `rotation_every` steps, so that everyone's rotation is in it. Ratios are medians over
rounds, with quartiles. bfloat16 autocast on a GPU.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from drtune.backbones.classifier import Classifier
from drtune.backbones.zoo import Backbone, build_backbone, completed
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.config import BackboneSettings, Params, TrainSettings, load
from drtune.data.batch import Batch
from drtune.evaluation import pick_device
from drtune.methods import METHODS, SETTINGS
from drtune.methods.dr_tune import DRTune
from drtune.seeding import generator, seed_everything
from drtune.training.loop import Hooks, Trainer, set_mode
from drtune.training.optimizers import build_optimizer

PLAIN, PRECOMPUTED, ONLINE, OFFICIAL = (
    "plain fine-tuning", "DR-Tune, precomputed bank", "DR-Tune, online", "official cost",
)  # fmt: skip
BATCH, BANK = 64, 2048
"""B and K of the paper."""
SMALL_RATES = {"lr_backbone": 1e-5, "lr_head": 1e-5}
"""No training is meant: the weights stay where they are."""
Step = Callable[[int], object]
"""One training step; the rotation falls on the numbers that `rotation_every` divides."""


class World:
    """What all contenders share: settings, backbone, a bank of random rows and one random batch."""

    def __init__(
        self, params: Params, backbone: Backbone, classes: int, device: torch.device, bank_size: int
    ):
        self.params, self.backbone, self.classes, self.device = params, backbone, classes, device
        self.bank_size = bank_size
        self.every = params.method("dr_tune").rotation_every  # type: ignore[attr-defined]
        where = {"device": "cpu", "precision": "no"}
        if device.type == "cuda":
            where = {"device": "auto", "precision": "bf16"}
        official = {"optimizer": "sgd", "batch_norm": "train", "batch_size": BATCH}
        self.train = params[TrainSettings].model_copy(update={**official, **where, **SMALL_RATES})
        header = BankHeader("", "", "", "", views=1, augmented=False, augment_seed=0, dtype="float32")
        random = generator(0, classes)
        features = torch.rand(1, bank_size, backbone.feature_dim, generator=random)
        labels = torch.randint(classes, (bank_size,), generator=random)
        self.bank = FeatureBank.from_tensors(features, labels, [""] * bank_size, header)
        size, index = backbone.spec.size, torch.randint(bank_size, (BATCH,), generator=random)
        images = torch.randn(BATCH, 3, size, size, generator=random)
        self.batch = Batch(images.to(device), labels[index].to(device), index, torch.zeros_like(index))

    def model(self) -> Classifier:
        """The same start for everyone."""
        torch.manual_seed(0)
        encoder = copy.deepcopy(self.backbone.encoder)
        return Classifier(encoder, self.backbone.feature_dim, self.classes).to(self.device)

    def autocast(self) -> torch.autocast:
        """As in training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16")

    def without_encoder(self) -> "World":
        """The same with an encoder that costs nothing."""
        backbone = replace(self.backbone, encoder=Nothing(self.backbone.feature_dim))
        return World(self.params, backbone, self.classes, self.device, self.bank_size)


class Nothing(nn.Module):
    """An encoder whose features are parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.rand(BATCH, dim, generator=generator(0)))

    def forward(self, images: Tensor) -> Tensor:
        """[B, D], whatever the images."""
        return self.features


class Official:
    """A step as the official code does it: weeknan/DR-Tune worker.py:119-146, model.py:27-117 at ef9a7b1.

    The frozen encoder sees every batch; a Python loop runs over the classes; a full SVD and a determinant
    give the rotation of every tenth step; the head sees B + K rows.
    """

    def __init__(self, model: Classifier, optimizer: Optimizer, bank: Tensor, labels: Tensor, bfloat16: bool):
        self.model, self.optimizer, self.bfloat16 = model, optimizer, bfloat16
        self.frozen = copy.deepcopy(model.encoder).requires_grad_(False).eval()
        self.pretrained, self.downstream = bank.clone(), bank.clone()
        self.labels, self.next = labels.clone(), 0

    def step(self, number: int, images: Tensor, labels: Tensor) -> Tensor:
        """Forward, backward and update; returns the loss."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            features = self.model.encoder(images)
            with torch.no_grad():
                old = self.frozen(images)
        features = features.float()
        rows = self.calibrate(features, number)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model.head(torch.cat([features, rows]))
        loss = cross_entropy(logits.float(), torch.cat([labels, self.labels]))
        here = slice(self.next, self.next + len(labels))
        self.pretrained[here], self.downstream[here], self.labels[here] = old, features.detach(), labels
        self.next = (self.next + len(labels)) % len(self.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def calibrate(self, features: Tensor, number: int) -> Tensor:
        """[K, D] rows of the pretrained bank, calibrated."""
        length = features.norm(dim=1).mean()
        P, Q = normalize(self.pretrained), normalize(self.downstream)
        if number % 10 == 0:
            P = self.align(P, Q)
        prototypes = normalize(self.model.head.weight)
        for c in range(len(prototypes)):
            rows = (self.labels == c).nonzero().flatten()
            share = (Q[rows] @ prototypes[c]).softmax(dim=0)
            P[rows] += (share[:, None] * Q[rows]).sum(dim=0) - P[rows].mean(dim=0)
        return normalize(P) * length  # type: ignore[no-any-return]

    @staticmethod
    def align(P: Tensor, Q: Tensor) -> Tensor:
        """Rotate rows P onto rows Q, both centred."""
        X, Y = (P - P.mean(dim=0)).T, (Q - Q.mean(dim=0)).T
        U, _, Vh = torch.linalg.svd(X @ Y.T)
        signs = torch.ones(len(U), device=P.device)
        signs[-1] = torch.linalg.det(Vh.T @ U.T)
        R = Vh.T @ torch.diag(signs) @ U.T
        return (R @ X + (Y - R @ X).mean(dim=1, keepdim=True)).T.contiguous()  # type: ignore[no-any-return]


def ours(name: str, change: dict[str, object], world: World) -> Step:
    """`Trainer.step` of one of our methods."""
    settings = world.params.method(name).model_copy(update=change)
    method = METHODS[name](settings, world.train)
    loader: Any = DataLoader([world.batch], batch_size=None)  # type: ignore[arg-type]
    model = world.model()
    trainer = Trainer(model, method, world.bank, loader, loader, world.train, Hooks())
    (phase,) = method.phases(1)
    trainer.begin(phase)
    set_mode(model, phase, world.train.batch_norm)

    def step(number: int) -> object:
        if isinstance(method, DRTune):
            method.step = number
        return trainer.step(world.batch)

    return step


def official(world: World) -> Step:
    """`Official.step` with the same optimiser."""
    model = world.model().train()
    rows = torch.arange(world.bank_size)
    bank = world.bank.rows(torch.zeros_like(rows), rows).to(world.device)
    labels = world.bank.labels[rows].to(world.device)
    bfloat16 = world.train.precision == "bf16"
    code = Official(model, build_optimizer(model, world.train), bank, labels, bfloat16)
    return lambda number: code.step(number, world.batch.images, world.batch.labels)


def seconds(step: Step, numbers: Iterable[int], device: torch.device) -> float:
    """Wall time of some steps."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for number in numbers:
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def contenders(world: World, others: bool) -> dict[str, Step]:
    """The first four and maybe all other methods, each with its own model at the same start."""
    names = [name for name in METHODS if others and name not in ("finetune", "dr_tune")]
    return {
        PLAIN: ours("finetune", {}, world),
        PRECOMPUTED: ours("dr_tune", {"bank": "precomputed", "bank_size": world.bank_size}, world),
        ONLINE: ours("dr_tune", {"bank": "online", "bank_size": world.bank_size}, world),
        OFFICIAL: official(world),
        **{name: ours(name, {}, world) for name in names},
    }


def measure(world: World, rounds: int) -> list[dict[str, float]]:
    """Contender -> seconds a step, in each round; one more at the start warms up.

    On the CPU the contenders take turns step by step, so that whatever slows the machine meets all; on a GPU,
    where the wait at the end of a turn would count too, period by period.
    """
    steps, every = contenders(world, others=True), world.every
    turns: list[Iterable[int]] = (
        [range(every)] if world.device.type == "cuda" else [[i] for i in range(every)]
    )
    found = []
    for _ in range(rounds + 1):
        sums = dict.fromkeys(steps, 0.0)
        for numbers in turns:
            for name, step in steps.items():
                sums[name] += seconds(step, numbers, world.device)
        found.append({name: value / every for name, value in sums.items()})
    return found[1:]


def measure_parts(world: World, rounds: int) -> list[dict[str, float]]:
    """The same, put together from parts, for backbones that take seconds a step.

    Timed are a plain step, the frozen encoder's pass, and steps of the first four behind an encoder that
    costs nothing, once with rotation and once without.
    """
    plain, every = ours("finetune", {}, world), world.every
    steps = contenders(world.without_encoder(), others=False)
    frozen = world.model().encoder.requires_grad_(False).eval()
    found = []
    for _ in range(rounds + 1):
        whole = seconds(plain, [0], world.device)
        with torch.no_grad(), world.autocast():
            once = seconds(lambda _: frozen(world.batch.images), [0], world.device)
        rest = {}
        for name, step in steps.items():
            kept, rotated = (seconds(step, [number], world.device) for number in (1, 0))
            rest[name] = ((every - 1) * kept + rotated) / every
        passes = {PLAIN: 0.0, PRECOMPUTED: 0.0, ONLINE: once, OFFICIAL: once}
        found.append({name: whole + rest[name] - rest[PLAIN] + passes[name] for name in steps})
    return found[1:]


def ratio(rounds: list[dict[str, float]], above: str, below: str) -> str:
    """Median and quartiles over rounds."""
    ratios = [times[above] / times[below] for times in rounds]
    first, _, third = quantiles(ratios, method="inclusive")
    return f"{median(ratios):5.3f} ({first:.3f} to {third:.3f})"


def table(rounds: list[dict[str, float]]) -> str:
    """One line a contender, and what ours gains."""
    lines = [f"{'':<28}{'ms/step':>10}   / plain (quartiles)"]
    for name in rounds[0]:
        typical = 1000 * median(times[name] for times in rounds)
        lines.append(f"{name:<28}{typical:>10.1f}   {ratio(rounds, name, PLAIN)}")
    lines += [f"official cost / {name}: {ratio(rounds, OFFICIAL, name)}" for name in (PRECOMPUTED, ONLINE)]
    return "\n".join(lines)


def main() -> None:
    """Print a table for each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", help="timm name, with random weights; default: that of params.yaml")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200])
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--parts", action="store_true", help="see measure_parts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    params, device = load(Path("params.yaml"), SETTINGS), pick_device(given.device)
    seed_everything(0, params[TrainSettings].deterministic)
    settings = completed(params[BackboneSettings])
    if given.backbone is not None:
        unset = {"weights": "none", "kwargs": None, "image_size": None, "mean": None, "std": None}
        settings = settings.model_copy(update={"name": given.backbone, **unset, "interpolation": None})
    backbone = build_backbone(settings)
    where = "cpu" if device.type == "cpu" else f"{torch.cuda.get_device_name()}, bfloat16"
    how = "put together from parts" if given.parts else "of whole rotation periods"
    for classes in given.classes:
        world = World(params, backbone, classes, device, BANK)
        rounds = measure_parts(world, given.rounds) if given.parts else measure(world, given.rounds)
        sizes = f"{backbone.spec.size} px, B = {BATCH}, K = {BANK}, D = {backbone.feature_dim}, C = {classes}"
        print(f"{settings.name}, {sizes}; {where}, threads: {given.threads}; {given.rounds} rounds {how}")
        print(table(rounds), "\n", flush=True)


if __name__ == "__main__":
    main()
