"""Time of a training step: plain fine-tuning, DR-Tune with either bank and with the whole ring in every step,
what its official code would cost, and every other method.

    python -m benchmarks.step_cost                                      (in the project folder)
    python -m benchmarks.step_cost --backbone resnet50 --classes 200 --rounds 5 --parts

All are `Trainer.step` with the settings in params.yaml, and what the name says, but for the official code
(`official_step.py`); all have the official optimiser and batch norm mode. The convolutions of the official
code are in PyTorch's default layout, ours in channels last; it is timed in both. One process, one random
batch, a bank in memory; they take turns. A round is `rotation_every` steps, so that everyone's rotation is
in it. Ratios are medians over rounds, with quartiles. bfloat16 autocast on a GPU.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.official_step import Official
from drtune.backbones.classifier import Classifier
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import Backbone, build_backbone, completed
from drtune.banks.bank import BankHeader, FeatureBank
from drtune.base.device import pick_device
from drtune.base.memory import keep_freed_memory
from drtune.base.numeric import set_numeric_state
from drtune.base.seeding import generator
from drtune.base.settings import Params
from drtune.data.batch import Batch
from drtune.params import SETTINGS, load
from drtune.training.contract import load_method
from drtune.training.loop import Hooks, Trainer, set_mode
from drtune.training.optimizers import build_optimizer
from drtune.training.settings import TrainSettings

PLAIN, PRECOMPUTED, ONLINE = "plain fine-tuning", "DR-Tune, precomputed bank", "DR-Tune, online"
WHOLE = "DR-Tune, all rows a step"
OFFICIAL, OFFICIAL_RELAID = "official cost", "official cost, channels last"
BATCH, BANK = 64, 2048
"""B and K of the paper."""
SMALL_RATES = {"lr_backbone": 1e-5, "lr_head": 1e-5}
"""No training is meant: the weights stay where they are."""
Step = Callable[[int], object]
"""One training step; the rotation falls on the numbers that `rotation_every` divides."""


class World:
    """What all contenders share: settings, backbone, a bank of random rows and one random batch."""

    def __init__(
        self,
        params: Params,
        backbone: Backbone,
        classes: int,
        device: torch.device,
        bank_size: int,
        precision: str = "no",
        batch: int = BATCH,
    ):
        self.params, self.backbone, self.classes, self.device = params, backbone, classes, device
        self.bank_size, self.precision, self.batch_size = bank_size, precision, batch
        self.every = params.method("dr_tune").rotation_every  # type: ignore[attr-defined]
        official = {"optimizer": "sgd", "batch_norm": "train", "batch_size": batch, "precision": precision}
        self.train = params[TrainSettings].model_copy(update=official | SMALL_RATES)
        header = BankHeader("", "", "", "", views=1, augmented=False, augment_seed=0, dtype="float32")
        random = generator(0, classes)
        features = torch.rand(1, bank_size, backbone.feature_dim, generator=random)
        labels = torch.randint(classes, (bank_size,), generator=random)
        self.bank = FeatureBank.from_tensors(features, labels, [""] * bank_size, header)
        size, index = backbone.spec.size, torch.randint(bank_size, (batch,), generator=random)
        images = torch.randn(batch, 3, size, size, generator=random)
        self.batch = Batch(images.to(device), labels[index].to(device), index, torch.zeros_like(index))

    def model(self) -> Classifier:
        """The same start for everyone."""
        torch.manual_seed(0)
        encoder = copy.deepcopy(self.backbone.encoder)
        return Classifier(encoder, self.backbone.feature_dim, self.classes).to(self.device)

    def autocast(self) -> torch.autocast:
        """As in training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16")

    def with_encoder(self, encoder: nn.Module) -> "World":
        """The same with another encoder."""
        backbone = replace(self.backbone, encoder=encoder)
        sizes = self.bank_size, self.precision, self.batch_size
        return World(self.params, backbone, self.classes, self.device, *sizes)

    def contiguous(self) -> "World":
        """The same with the encoder in PyTorch's default layout."""
        return self.with_encoder(
            copy.deepcopy(self.backbone.encoder).to(memory_format=torch.contiguous_format)
        )

    def without_encoder(self) -> "World":
        """The same with an encoder that costs nothing."""
        return self.with_encoder(Nothing(self.batch_size, self.backbone.feature_dim))


class Nothing(nn.Module):
    """An encoder whose features are parameters."""

    def __init__(self, batch: int, dim: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.rand(batch, dim, generator=generator(0)))

    def forward(self, images: Tensor) -> Tensor:
        """[B, D], whatever the images."""
        return self.features


def ours(name: str, change: dict[str, object], world: World) -> Step:
    """`Trainer.step` of one of our methods."""
    settings = world.params.method(name).model_copy(update=change)
    method = load_method(name)(settings, world.train)
    loader: Any = DataLoader([world.batch], batch_size=None)  # type: ignore[arg-type]
    model = world.model()
    trainer = Trainer(model, method, world.bank, loader, loader, world.train, Hooks(), device=world.device)
    set_mode(model, method.trains, world.train.batch_norm)

    def step(number: int) -> object:
        trainer.progress.step = number
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
    """The first six and maybe all other methods, each with its own model at the same start."""
    names = [name for name in SETTINGS if others and name not in ("finetune", "dr_tune")]
    ring: dict[str, object] = {"bank_size": world.bank_size}
    return {
        PLAIN: ours("finetune", {}, world),
        PRECOMPUTED: ours("dr_tune", ring | {"bank": "precomputed"}, world),
        WHOLE: ours("dr_tune", ring | {"bank": "precomputed", "rows_per_step": None}, world),
        ONLINE: ours("dr_tune", ring | {"bank": "online"}, world),
        OFFICIAL: official(world.contiguous()),
        OFFICIAL_RELAID: official(world),
        **{name: ours(name, {}, world) for name in names},
    }


def measure(
    world: World, rounds: int, steps: dict[str, Step] | None = None, until: float = math.inf
) -> list[dict[str, float]]:
    """Contender -> seconds a step, in each round; one more at the start warms up.

    On the CPU the contenders take turns step by step, so that whatever slows the machine meets all; on a GPU,
    where the wait at the end of a turn would count too, period by period. No round begins after `until`, a
    time of `time.monotonic`, once there are two.
    """
    steps, every = steps or contenders(world, others=True), world.every
    turns: list[Iterable[int]] = (
        [range(every)] if world.device.type == "cuda" else [[i] for i in range(every)]
    )
    found: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        if len(found) > 2 and time.monotonic() > until:
            break
        sums = dict.fromkeys(steps, 0.0)
        for numbers in turns:
            for name, step in steps.items():
                sums[name] += seconds(step, numbers, world.device)
        found.append({name: value / every for name, value in sums.items()})
    return found[1:]


def measure_parts(world: World, rounds: int) -> list[dict[str, float]]:
    """The same, put together from parts, for backbones that take seconds a step.

    Timed are a plain step and the frozen encoder's pass, in both layouts, and steps of the first six behind
    an encoder that costs nothing, once with rotation and once without.
    """
    relaid, own = encoder_steps(world), encoder_steps(world.contiguous())
    steps, every = contenders(world.without_encoder(), others=False), world.every
    found = []
    for _ in range(rounds + 1):
        plain, frozen = (seconds(step, [0], world.device) for step in relaid)
        plain_own, frozen_own = (seconds(step, [0], world.device) for step in own)
        rest = {}
        for name, step in steps.items():
            kept, rotated = (seconds(step, [number], world.device) for number in (1, 0))
            rest[name] = ((every - 1) * kept + rotated) / every
        encoder = {
            PLAIN: plain,
            PRECOMPUTED: plain,
            WHOLE: plain,
            ONLINE: plain + frozen,
            OFFICIAL: plain_own + frozen_own,
            OFFICIAL_RELAID: plain + frozen,
        }
        found.append({name: encoder[name] + rest[name] - rest[PLAIN] for name in steps})
    return found[1:]


def encoder_steps(world: World) -> tuple[Step, Step]:
    """(a step of plain fine-tuning, a pass of the frozen encoder)"""
    frozen = world.model().encoder.requires_grad_(False).eval()

    def encode(_: int) -> Tensor:
        with torch.no_grad(), world.autocast():
            return frozen(world.batch.images)  # type: ignore[no-any-return]

    return ours("finetune", {}, world), encode


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
    for above in (OFFICIAL, OFFICIAL_RELAID):
        lines += [f"{above} / {name}: {ratio(rounds, above, name)}" for name in (PRECOMPUTED, WHOLE, ONLINE)]
    return "\n".join(lines)


def main() -> None:
    """Print a table for each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", help="timm name, with random weights; default: that of params.yaml")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200])
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--parts", action="store_true", help="see measure_parts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto", help="as runtime.device")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    params, device = load(Path("params.yaml")), pick_device(given.device)
    set_numeric_state(0, torch.get_num_threads(), deterministic=params[TrainSettings].deterministic)
    settings = completed(params[BackboneSettings])
    if given.backbone is not None:
        unset = dict.fromkeys(("kwargs", "image_size", "mean", "std", "interpolation"))
        own = {"name": given.backbone, "weights": "catalog/random.yaml"}
        settings = settings.model_copy(update=own | unset)
    backbone = build_backbone(settings)
    where = "cpu" if device.type == "cpu" else f"{torch.cuda.get_device_name()}, bfloat16"
    how = "put together from parts" if given.parts else "of whole rotation periods"
    for classes in given.classes:
        precision = "no" if device.type == "cpu" else "bf16"
        world = World(params, backbone, classes, device, BANK, precision)
        rounds = measure_parts(world, given.rounds) if given.parts else measure(world, given.rounds)
        sizes = f"{backbone.spec.size} px, B = {BATCH}, K = {BANK}, D = {backbone.feature_dim}, C = {classes}"
        print(f"{settings.name}, {sizes}; {where}, threads: {given.threads}; {given.rounds} rounds {how}")
        print(table(rounds), "\n", flush=True)


if __name__ == "__main__":
    main()
