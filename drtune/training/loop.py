"""The one loop every method runs in: epochs x batches.

It owns optimiser, schedule, precision, validation and checkpoints, and knows no tracker: it reports through
`on_event(name, values, step)`. The test split never comes here; `selection.py` says which epoch is kept.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from drtune.backbones.batch_norm import convert_batch_norms
from drtune.backbones.classifier import Classifier, unwrapped
from drtune.backbones.predictions import predict
from drtune.banks.bank import FeatureBank
from drtune.base.errors import TrainingError
from drtune.data.batch import Batch, on_device
from drtune.data.loaders import KeptBatches, set_epoch
from drtune.training.checkpoint import Progress, read_checkpoint, restore, save_checkpoint
from drtune.training.contract import Method, Trained
from drtune.training.optimizers import build_optimizer, build_schedule
from drtune.training.selection import kept_epoch
from drtune.training.settings import TrainSettings
from drtune.training.validation import validation_scores
from drtune.training.wise_ft import WeightEnsemble

CPU = torch.device("cpu")
FLUSH_STEPS = 50
"""Steps between two transfers of the loss terms to the host."""

OnEvent = Callable[[str, Mapping[str, float], int], None]


def ignore(*_: object) -> None:
    """Take an event and do nothing."""


@dataclass(frozen=True)
class Hooks:
    """How a training reports and where it may go on from.

    Attributes:
        on_event: called with `step` (loss terms, learning rates) and `epoch` (a history record).
        on_progress: called at the start and after each step with (steps done, steps in all).
        on_prepare: the same for a method's passes over the images before the first step.
        checkpoints: folder of this training's running state; None keeps none.
        checkpoint_seconds: least time between two checkpoints, which are written between epochs.
    """

    on_event: OnEvent = ignore
    on_progress: Callable[[int, int], None] = ignore
    on_prepare: Callable[[int, int], None] = ignore
    checkpoints: Path | None = None
    checkpoint_seconds: float = 30.0


class FirstEpoch:
    """The batches of the first epoch on a device; every iteration is the same pass, and is reported.

    Args:
        loader: the training's own.
        device: of the images and labels.
        report: called with (batches done, batches in all).
    """

    def __init__(self, loader: Any, device: torch.device, report: Callable[[int, int], None]) -> None:
        self.loader, self.device, self.report = loader, device, report

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        set_epoch(self.loader, 0)
        for done, batch in enumerate(self.loader, start=1):
            yield on_device(batch, self.device)
            self.report(done, len(self.loader))


class Trainer:
    """One training of one method.

    Args:
        model: classifier at its start.
        method: prepared here, on the device.
        bank: pretrained features of the training split; None where the method needs none.
        train: seeded loader of batches whose `batch_sampler` has `set_epoch`.
        val: loader of the validation split.
        settings: `train` in params.yaml, its precision other than `auto`.
        hooks: reports and checkpoints.
        start: history record of the model as it is given, with epoch 0; None where that is no candidate.
        device: where it runs.
    """

    def __init__(
        self,
        model: Classifier,
        method: Method,
        bank: FeatureBank | None,
        train: Any,
        val: Any,
        settings: TrainSettings,
        hooks: Hooks,
        start: Mapping[str, Any] | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.start = start
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # Accelerate takes the current one
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=settings.precision)
        self.settings, self.hooks, self.method = settings, hooks, method
        self.model: nn.Module = self.accelerator.prepare(model)
        self.train = self.accelerator.prepare_data_loader(train, device_placement=False)
        self.val = KeptBatches(self.accelerator.prepare_data_loader(val, device_placement=False))
        decay = settings.ema_decay
        self.ema = None if decay is None else ModelEmaV3(unwrapped(self.model), decay=decay)
        alpha = settings.wise_ft
        self.ensemble = None if alpha is None else WeightEnsemble(unwrapped(self.model), alpha)
        batches = FirstEpoch(self.train, self.accelerator.device, hooks.on_prepare)
        if settings.batch_norm == "converted" and method.trains == "all":
            images = (batch.images for batch in batches)
            convert_batch_norms(unwrapped(self.model).encoder, images, "total_variance")
        method.prepare(self.model, bank, batches)
        if self.ensemble is not None:
            self.ensemble.begin(unwrapped(self.model))
        unwrapped(self.model).encoder.requires_grad_(method.trains == "all")
        optimizer = build_optimizer(unwrapped(self.model), settings, method.parameters())
        self.schedule = build_schedule(optimizer, settings, settings.epochs, len(self.train))
        self.optimizer = self.accelerator.prepare(optimizer)
        self.total_steps = settings.epochs * len(self.train)
        self.weights: dict[str, float] = {}
        self.progress = Progress()
        self.last_saved = time.monotonic()

    def run(self) -> Progress:
        """Train to the end, or on from a checkpoint, and return the history and the best weights.

        Raises:
            TrainingError: the loss is no longer finite.
        """
        folder, epochs = self.hooks.checkpoints, self.settings.epochs
        if folder is not None and (state := read_checkpoint(folder)) is not None:
            self.progress = state["progress"]
            restore(state, self.parts())
        elif self.start is not None:
            self.keep(dict(self.start))
        self.hooks.on_progress(self.progress.step, self.total_steps)
        for epoch in range(self.progress.epoch, epochs):
            record = {"epoch": epoch + 1, **self.run_epoch(epoch)}
            record |= {f"val_{name}": value for name, value in self.validate().items()}
            self.keep(record)
            self.save(last=epoch + 1 == epochs)
        return self.progress

    def parts(self) -> dict[str, Any]:
        """Everything a checkpoint holds."""
        parts: dict[str, Any] = {"model": unwrapped(self.model), "method": self.method}
        parts |= {"optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.ema is None else parts | {"ema": self.ema.module}

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training split; the mean of each loss term, the last rates and weights."""
        set_mode(unwrapped(self.model), self.method.trains, self.settings.batch_norm)
        set_epoch(self.train, epoch)
        sums: dict[str, float] = {}
        waiting: list[tuple[dict[str, Tensor], dict[str, float]]] = []
        for batch in self.train:
            waiting.append((self.step(batch), self.rates()))
            self.schedule.step()
            self.progress.step += 1
            self.hooks.on_progress(self.progress.step, self.total_steps)
            if len(waiting) == FLUSH_STEPS:
                add(sums, self.flush(waiting))
        rates = waiting[-1][1] if waiting else self.rates()
        add(sums, self.flush(waiting))
        means = {name: round(value / len(self.train), 6) for name, value in sums.items()}
        return {"train_loss": means.pop("loss"), **means, **rates, **self.weights}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and its terms, still on the device."""
        batch = on_device(batch, self.accelerator.device)
        self.method.step = self.progress.step
        loss = self.method.loss(self.model, batch)
        total = loss.total
        self.accelerator.backward(total)
        if self.settings.clip_norm is not None:
            everything = [*self.model.parameters(), *self.method.parameters()]
            self.accelerator.clip_grad_norm_(everything, self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(batch, loss.kept)
        if self.ema is not None:
            self.ema.update(unwrapped(self.model), step=self.progress.step)
        self.weights = {f"weight/{name}": weight for name, weight in loss.weights.items()}
        return {
            "loss": total.detach(),
            **{f"loss/{name}": term.detach() for name, term in loss.terms.items()},
        }

    def rates(self) -> dict[str, float]:
        """Learning rate of each group by name."""
        return {f"lr_{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups}

    def flush(self, waiting: list[tuple[dict[str, Tensor], dict[str, float]]]) -> dict[str, float]:
        """Bring waiting loss terms to the host at once, report them, and return their sums."""
        if not waiting:
            return {}
        names = list(waiting[0][0])
        values = torch.stack([torch.stack([terms[n].float() for n in names]) for terms, _ in waiting]).cpu()
        first = self.progress.step - len(waiting) + 1
        if not bool(torch.isfinite(values).all()):
            self.refuse(names, values.tolist(), first)
        for offset, (row, (_, rates)) in enumerate(zip(values.tolist(), waiting, strict=True)):
            self.hooks.on_event("step", {**dict(zip(names, row, strict=True)), **rates}, first + offset)
        waiting.clear()
        return dict(zip(names, values.double().sum(dim=0).tolist(), strict=True))

    def refuse(self, names: list[str], rows: list[list[float]], first: int) -> None:
        """Say which of the terms of the steps from `first` on is the first that is not finite."""
        step, row = next((first + i, row) for i, row in enumerate(rows) if not all(map(math.isfinite, row)))
        wrong = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
        terms = [name.removeprefix("loss/") for name in wrong if name != "loss"] or ["their sum"]
        use = self.settings
        wider = "set train.precision: bf16 (fp16 ends at 65504), " if use.precision == "fp16" else ""
        raise TrainingError(
            f"the loss is no longer finite at step {step} of {self.total_steps} ({', '.join(terms)}); {wider}"
            f"lower train.lr_backbone ({use.lr_backbone:g}) or train.lr_head ({use.lr_head:g}), or set "
            "train.clip_norm"
        )

    def candidate(self) -> Classifier:
        """The model that is validated and may be kept: with averaged weights where there are such."""
        model = unwrapped(self.model if self.ema is None else self.ema.module)
        return model if self.ensemble is None else self.ensemble.of(model)

    def validate(self) -> dict[str, float]:
        """Scores on the validation split."""
        return validation_scores(predict(self.candidate(), self.val, self.accelerator.device))

    def keep(self, record: dict[str, Any]) -> None:
        """Add an epoch to the history, report it, and keep its weights where `train.monitor` says so."""
        self.progress.history.append(record)
        self.progress.epoch = record["epoch"]
        if kept_epoch(self.progress.history, self.settings.monitor) is record:
            weights = self.candidate().state_dict()
            state = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.progress.best_epoch, self.progress.best_state = record["epoch"], state
        self.hooks.on_event("epoch", record, self.progress.step)

    def save(self, last: bool) -> None:
        """Write a checkpoint where enough time has passed, and at the end."""
        folder = self.hooks.checkpoints
        due = time.monotonic() - self.last_saved >= self.hooks.checkpoint_seconds
        if folder is not None and self.accelerator.is_main_process and (last or due):
            save_checkpoint(folder, self.progress, self.parts())
            self.last_saved = time.monotonic()


def set_mode(model: Classifier, trains: Trained, batch_norm: str) -> None:
    """Training mode, with the encoder in eval mode where only the head learns, or its norms alone."""
    model.train()
    if trains == "head":
        model.encoder.eval()
    elif batch_norm == "eval":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Add values by name."""
    for name, value in more.items():
        sums[name] = math.fsum((sums.get(name, 0.0), value))
