"""Part a: the same results on this device as on the CPU, a training that learns, one that goes on."""

import time
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from benchmarks.gpu.scene import TOY, Scene, scratch, write_images
from drtune.backbones.batch_norm import convert_batch_norms
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.extract import extract_train
from drtune.base.numeric import set_numeric_state
from drtune.base.settings import Params
from drtune.methods.dr_tune.calibration import procrustes, scores, translate
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from drtune.training.fit import Fitted, fit
from drtune.training.loop import Hooks

OPTIMUM = 1e-4
"""How far above the least sum of squares, as a share of it, a rotation may be (docstring of `procrustes`)."""
TOY_TRAINING = {
    "backbone__name": "resnet10t",
    "backbone__kwargs": TOY,
    "backbone__image_size": 32,
    "backbone__interpolation": "bilinear",
    "train__epochs": 14,
    "train__batch_size": 8,
    "train__optimizer": "adamw",
    "train__lr_backbone": 0.001,
    "train__lr_head": 0.01,
    "train__lr_head_unit": "absolute",
    "train__head_init": "bank",
    "train__batch_norm": "train",
    "train__monitor": "last",
    "data__shots": None,
    "data__val_fraction": 0.25,
    "data__test_fraction": 0.25,
}


class Killed(Exception):  # noqa: N818
    """Stands for a kill between two epochs."""


def run(scene: Scene) -> dict[str, Any]:
    """Every check by name: whether it held, what it found, and why it failed."""
    set_numeric_state(0, torch.get_num_threads(), deterministic=True)
    found: dict[str, Any] = {}
    kinds = ("bf16", "fp16") if scene.device.type == "cuda" else ("bf16",)
    with scratch() as folder:
        task = Task(scene, Path(folder))
        checks: Mapping[str, Callable[[], dict[str, Any]]] = {
            **{f"rotation, {case}": lambda case=case: rotation(scene, case) for case in CASES},
            "calibrated scores": lambda: calibrated(scene),
            "batch norm conversion": lambda: conversion(scene),
            **{f"{name} trains": lambda name=name: task.learns(name, "no") for name in scene.methods},
            **{f"dr_tune learns in {kind}": lambda kind=kind: task.learns("dr_tune", kind) for kind in kinds},
            "the same seed twice": lambda: task.repeats(),
            "goes on after a kill": lambda: task.goes_on(),
        }
        for name, check in checks.items():
            start = time.perf_counter()
            try:
                result = {"ok": True, **check()}
            except Exception as fault:
                result = {"ok": False, "fault": str(fault)[:500], "trace": traceback.format_exc()[-1500:]}
            found[name] = result | {"seconds": round(time.perf_counter() - start, 2)}
            scene.save(found)
            if time.monotonic() > scene.until:
                break
    return found


CASES = {"K > D": (2048, 512), "K < D": (48, 256), "rows twice": (512, 128)}


def pairs(rows: int, dim: int, twice: bool) -> tuple[Tensor, Tensor]:
    """Rows [K, D] and what became of them: turned, moved a little; the second half may repeat the first."""
    random = torch.Generator().manual_seed(rows)
    P = torch.randn(rows, dim, generator=random)
    if twice:
        P[rows // 2 :] = P[: rows // 2]
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=random)).Q
    return P, P @ turn.T + 0.1 * torch.randn(rows, dim, generator=random)


def rotation(scene: Scene, case: str) -> dict[str, Any]:
    """R of this device is orthogonal, proper, and as good as the optimum in float64 on the CPU."""
    rows, dim = CASES[case]
    P, Q = pairs(rows, dim, case == "rows twice")
    R = procrustes(P.to(scene.device), Q.to(scene.device), proper=True, center=True).cpu().double()
    X, Y = (part.double() - part.double().mean(dim=0) for part in (P, Q))
    U, _, Vh = torch.linalg.svd(Y.T @ X)
    signs = torch.ones(dim, dtype=torch.float64)
    signs[-1] = torch.linalg.slogdet(U @ Vh)[0]
    best = float((X @ (U @ torch.diag(signs) @ Vh).T - Y).square().sum())
    above = float((X @ R.T - Y).square().sum()) / best - 1
    straight = float((R @ R.T - torch.eye(dim, dtype=torch.float64)).abs().max())
    sign = float(torch.linalg.slogdet(R)[0])
    if not (above < OPTIMUM and straight < 1e-3 and sign > 0):
        raise AssertionError(f"{above:.2e} above the optimum, R R^T - I {straight:.2e}, det {sign:+.0f}")
    return {"above_optimum": above, "orthogonal_within": straight}


def calibrated(scene: Scene) -> dict[str, Any]:
    """Scores of calibrated rows on this device and on the CPU in float64."""
    P, Q = pairs(512, 128, False)
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(20, (512,), generator=random)
    phi, bias = torch.randn(20, 128, generator=random), torch.randn(20, generator=random)
    R = procrustes(P, Q, proper=True, center=True)

    def on(device: torch.device) -> Tensor:
        p, q, y, f, b, r = (part.to(device) for part in (P, Q, labels, phi, bias, R))
        return scores(translate(p, q, y, f, r, "cosine", 1.0), f, b, r).cpu().double()

    return near(on(scene.device), on(torch.device("cpu")), 1e-4)


def near(found: Tensor, wanted: Tensor, limit: float) -> dict[str, Any]:
    """The relative distance of two tensors, which must be below a limit."""
    distance = float((found - wanted).norm() / wanted.norm())
    if not distance < limit:
        raise AssertionError(f"relative distance {distance:.2e}, allowed {limit:.0e}")
    return {"relative_distance": distance}


def conversion(scene: Scene) -> dict[str, Any]:
    """A converted network has the same weights on this device as on the CPU."""
    images = [torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)]

    def converted(device: torch.device) -> Tensor:
        network: nn.Module = scene.backbone("resnet10t", TOY, 32).encoder.to(device)
        convert_batch_norms(network, (part.to(device) for part in images), "total_variance")
        return torch.cat([value.flatten().cpu().double() for value in network.state_dict().values()])

    return near(converted(scene.device), converted(torch.device("cpu")), 1e-4)


class Task:
    """Coloured pictures that every method must tell apart after a few epochs."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self.folder = scene, folder
        write_images(folder / "images", 72, (48, 36))
        data = self.params()[DataSettings]
        ingest(data, folder / "dataset", folder / "downloads")

    def params(self, **change: Any) -> Params:
        """Settings of a toy training."""
        source = {"data__source": str(self.folder / "images")}
        return self.scene.settings(**TOY_TRAINING | source | change)

    def fit(self, params: Params, hooks: Hooks | None = None) -> Fitted:
        """Extract the bank where there is none, and train."""
        bank = self.folder / "bank.safetensors"
        if not bank.exists():
            set_numeric_state(0, torch.get_num_threads())
            extract_train(bank, self.folder / "dataset", build_backbone(params[BackboneSettings]), params)
        AcceleratorState._reset_state(True)  # another precision needs another accelerator
        return fit(params, self.folder / "dataset", bank, hooks or Hooks())

    def learns(self, method: str, precision: str) -> dict[str, Any]:
        """The classes are told apart at the end."""
        change = {"train__method": method, "train__precision": precision}
        fitted = self.fit(self.params(**change))
        accuracy = fitted.progress.history[-1]["val_accuracy"]
        if accuracy < 0.9:
            raise AssertionError(f"validation accuracy {accuracy:.3f} after 14 epochs of coloured pictures")
        return {"val_accuracy": accuracy, "train_loss": fitted.progress.history[-1]["train_loss"]}

    @cached_property
    def undisturbed(self) -> Fitted:
        """A training from its beginning to its end."""
        return self.fit(self.params())

    def repeats(self) -> dict[str, Any]:
        """Two trainings of one seed have equal bits."""
        return equal(self.undisturbed, self.fit(self.params()))

    def goes_on(self) -> dict[str, Any]:
        """A training that was cut short ends as an undisturbed one does."""

        def kill(name: str, values: Mapping[str, float], step: int) -> None:
            if name == "epoch" and values["epoch"] == 3:
                raise Killed

        running = self.folder / "running"
        try:
            self.fit(self.params(), Hooks(kill, checkpoints=running, checkpoint_seconds=0.0))
        except Killed:
            resumed = self.fit(self.params(), Hooks(checkpoints=running))
            return equal(resumed, self.undisturbed)
        raise AssertionError("the training was not cut short")


def equal(one: Fitted, other: Fitted) -> dict[str, Any]:
    """The greatest difference of two trainings' weights and losses, which must be nothing."""
    states = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    weights = max(float((a.double() - b.double()).abs().max()) for a, b in states)
    losses = [[record.get("train_loss", 0.0) for record in part.progress.history] for part in (one, other)]
    if weights > 0 or losses[0] != losses[1]:
        raise AssertionError(f"weights differ by up to {weights:.2e}, losses {losses[0]} and {losses[1]}")
    return {"greatest_difference": weights}
