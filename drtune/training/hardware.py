"""What a training computes in, whether it fits, and what is recorded of where it ran."""

from typing import Literal

import torch
from torch import nn

from drtune.base.device import about_device, pick_device
from drtune.base.errors import ConfigError, ShortageError
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.training.settings import TrainSettings

Precision = Literal["no", "bf16", "fp16"]
FIRST_WITH_BF16 = 8
"""Compute capability of Ampere."""
STATE_BYTES = {"adamw": 8, "sgd": 4}
"""Of one parameter."""


def pick_precision(choice: str, device: torch.device) -> Precision:
    """What `train.precision` comes to on a device; `auto` is bf16 where a GPU computes it, else float32.

    Raises:
        ConfigError: fp16 on a device other than a CUDA GPU, where the autocast would do nothing; bf16 on a
            GPU that only imitates it.
    """
    on_cuda = device.type == "cuda"
    bf16 = on_cuda and torch.cuda.get_device_capability(device)[0] >= FIRST_WITH_BF16
    if choice == "auto":
        return "bf16" if bf16 else "no"
    allowed = {"cuda": ("no", "bf16", "fp16") if bf16 else ("no", "fp16"), "cpu": ("no", "bf16")}
    known = allowed.get(device.type, ("no",))
    if choice not in known:
        name = torch.cuda.get_device_name(device) if on_cuda else device.type
        others = ", ".join(("auto", *known)).replace("no", '"no"')
        raise ConfigError(f"train.precision: {name} does not compute {choice}; set one of {others}")
    return choice  # type: ignore[return-value]


def made_on(params: Params) -> dict[str, str]:
    """Device, card, driver, CUDA, cuDNN and precision of a training; of a CPU the device and precision alone.

    Raises:
        ConfigError: as of `pick_device` and `pick_precision`.
    """
    device = pick_device(params[RuntimeSettings].device)
    return about_device(device) | {"precision": pick_precision(params[TrainSettings].precision, device)}


def refuse_too_large(model: nn.Module, settings: TrainSettings, device: torch.device) -> None:
    """Refuse a model whose weights, gradients and optimiser's state alone exceed what a GPU has free.

    The rule of thumb: 16 bytes a parameter with AdamW, 12 with SGD, 4 more with `ema_decay`. Activations come
    on top; docs/gpu.md has measured sums.

    Raises:
        ShortageError: naming both figures.
    """
    if device.type != "cuda":
        return
    each = 8 + STATE_BYTES[settings.optimizer] + (0 if settings.ema_decay is None else 4)
    needed, free = each * sum(p.numel() for p in model.parameters()), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise ShortageError(
            f"weights, gradients and the state of {settings.optimizer} take {each} bytes a parameter, "
            f"{needed / 2**30:.1f} GiB in all, and {torch.cuda.get_device_name(device)} has "
            f"{free / 2**30:.1f} GiB free; take a smaller backbone.name, train.optimizer: sgd (12 bytes) or "
            "train.method: linear_probe; nvidia-smi shows who else holds memory"
        )
