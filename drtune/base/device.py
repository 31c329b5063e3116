"""Which device a stage computes on, and why not another."""

import os
import re
import warnings

import torch

from drtune.base.cards import cards, driver
from drtune.base.errors import ConfigError


def pick_device(choice: str) -> torch.device:
    """The device that `runtime.device` names.

    `auto` is a CUDA GPU that PyTorch can use, else the CPU. It never is `mps`, on which nobody has measured
    anything yet.

    Raises:
        ConfigError: a device that is not there or that PyTorch cannot use, and why.
    """
    kind, _, index = choice.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("runtime.device: mps: PyTorch finds no Apple GPU here; take auto or cpu")
    if kind not in ("auto", "cuda"):
        return torch.device(choice)
    trouble = trouble_with_cuda(int(index or 0))
    if kind == "cuda" and trouble:
        raise ConfigError(f"runtime.device: {choice}: {trouble}. Or take auto or cpu")
    return torch.device("cpu" if trouble else choice.replace("auto", "cuda"))


def trouble_with_cuda(index: int = 0) -> str:
    """Why PyTorch cannot use a CUDA GPU here, and what to do; empty where it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built without CUDA; install a build with it (pytorch.org)"
    with warnings.catch_warnings(action="ignore"):  # PyTorch warns of what is said here
        usable = torch.cuda.is_available()
    if not usable:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            reason = "PyTorch finds no GPU"
        except RuntimeError as fault:
            reason = str(fault).split("\n")[0]
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return reason if hidden is None else f"{reason} (CUDA_VISIBLE_DEVICES is {hidden!r})"
    if index >= (count := torch.cuda.device_count()):
        return f"there is no such GPU: PyTorch sees {count}, cuda:0 to cuda:{count - 1}"
    capability, built = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
    if torch.version.cuda and not any(runs_on(code, capability) for code in built):
        card = f"{torch.cuda.get_device_name(index)} (compute capability {capability[0]}.{capability[1]})"
        known = f"it is built for {', '.join(built)}"
        return f"PyTorch {torch.__version__} has no code for {card}, {known}; install a build that has"
    return ""


def runs_on(code: str, capability: tuple[int, int]) -> bool:
    """Whether code for `sm_86` (a card of the same generation) or `compute_86` (any later one) runs."""
    kind, major, minor = re.match(r"(sm|compute)_(\d+)(\d)", code).groups()  # type: ignore[union-attr]
    built = int(major), int(minor)
    return built <= capability and (kind == "compute" or built[0] == capability[0])


def about_device(device: torch.device) -> dict[str, str]:
    """What a result says of the device it was made on; of a CPU nothing that tells one from another."""
    about = {"device": device.type}
    if device.type == "cuda":
        about |= {"card": torch.cuda.get_device_name(device), "driver": driver()}
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        about |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return about


def chosen_device(choice: str) -> str:
    """One line of what `runtime.device` comes to; of a GPU that `auto` cannot take, why.

    Raises:
        ConfigError: as of `pick_device`.
    """
    about = about_device(pick_device(choice))
    if choice == "auto" and about["device"] == "cpu" and (names := cards()):
        return f"cpu, although there is a GPU ({names[0]}): {trouble_with_cuda()}"
    device, *further = about.values()
    names = [name for name in about if name != "device"]
    return device + "".join(f", {name} {value}" for name, value in zip(names, further, strict=True))
