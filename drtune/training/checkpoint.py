"""The running state of a training, so that an interrupted one goes on exactly where it was.

The folder belongs to one training alone (its name is the stage key) and outlives the process; whoever
writes the finished outputs removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drtune.base.files import replacing

STATE = "state.pt"


@dataclass
class Progress:
    """Where a training stands between two epochs.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        history: one record an epoch.
        best_epoch: the epoch that is kept (`selection`), counted from 1; 0 is the start (`head_start`).
        best_state: its model weights, on the CPU.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any]:
        """The record of the epoch that is kept."""
        return next(record for record in self.history if record["epoch"] == self.best_epoch)


def save_checkpoint(folder: Path, progress: Progress, parts: Mapping[str, Any]) -> None:
    """Write the state aside and rename it, so that a kill leaves the state before or the state after.

    Args:
        folder: the training's own folder.
        progress: where it stands.
        parts: name -> object with `state_dict()`.
    """
    state = {
        "progress": vars(progress),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": random_state(),
    }
    with replacing(folder / STATE) as fresh, fresh.open("wb") as stream:
        torch.save(state, stream)  # to a stream, because PyTorch hides why it cannot write to a path


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read a saved state onto the CPU; None where there is none."""
    path = folder / STATE
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state["progress"] = Progress(**state["progress"])
    return state


def restore(state: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Put the saved state of the named parts and of the random generators back."""
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])


def random_state() -> dict[str, Any]:
    """PyTorch's generators, from which dropout and stochastic depth draw."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state
