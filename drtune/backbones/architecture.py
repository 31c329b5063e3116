"""The one door to timm's models: arguments of the architecture pass, wherever they come from.

Arguments stand in params.yaml, in the header of a weights file and in model.json, which may be a stranger's.
Those of timm's factories fetch addresses, read files and write folders; they never pass. A network is
drawn up without memory first: one too large for the machine, or for the file of its weights, is not made.
"""

import inspect
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, create_model, load_pretrained
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from drtune.backbones.weights import TENSORS, first_line
from drtune.base.errors import ConfigError

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,39}")
"""Text that names a layer or a mode, and no file, folder or address."""
FORBIDDEN = re.compile(
    r"^(pretrained|hf_|features_only|scriptable|exportable|device$|dtype$)|(cfg|config|_dir|_file|url|fn)$"
)
ARCHITECTURE = {"pretrained_window_sizes"}
"""Names of layers' settings that look like a factory's."""
MOST, LARGEST = 256, 1e6
"""Values in a list, the size of a number; no architecture of timm comes near."""


KWARGS = "backbone.kwargs (or what the weights file records of them)"
CONFIGS = {"hf-hub:": load_model_config_from_hf, "local-dir:": load_model_config_from_path}
"""Names of models that bring arguments of their own."""


def create_encoder(
    name: str, arguments: Mapping[str, Any], origin: str, most_numbers: float = math.inf, **own: Any
) -> nn.Module:
    """Create a timm model without a classifier.

    Args:
        name: of the model.
        arguments: of its architecture, from outside.
        origin: where they stand, for the error.
        most_numbers: that its weights can hold; the machine's memory is another limit.
        own: arguments of timm's factories; from our own code alone.

    Raises:
        ConfigError: an argument that is no setting of an architecture, or a network that is too large.
        TypeError: one that this architecture does not have.
    """
    check_arguments(arguments, origin)
    for key, load in CONFIGS.items():
        if name.startswith(key):
            check_arguments(load(name.removeprefix(key))[2] or {}, f"{name}, its config.json")
    limit = min(most_numbers, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4)
    with torch.random.fork_rng(devices=[]), torch.device("meta"), at_most(limit, f"{origin}: {name}"):
        timm.create_model(name, num_classes=0, **arguments)
    model: nn.Module = timm.create_model(name, num_classes=0, **own, **arguments)
    return model


@contextmanager
def at_most(limit: float, about: str) -> Iterator[None]:
    """Within the block, stop the making of a network as soon as it has too many parameters and buffers.

    Raises:
        ConfigError: it has more than `limit` numbers, or more than `TENSORS` tensors.
    """
    numbers, tensors = 0, 0

    def count(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
        nonlocal numbers, tensors
        numbers, tensors = numbers + (0 if value is None else value.numel()), tensors + 1
        if numbers > limit or tensors > TENSORS:
            raise ConfigError(
                f"{about} needs {numbers:,} numbers in {tensors:,} tensors or more; the machine's memory and "
                f"the file of weights allow {limit:,.0f} in {TENSORS:,}; make the network smaller"
            )

    hooks = register_module_parameter_registration_hook, register_module_buffer_registration_hook
    handles = [hook(count) for hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_arguments(arguments: Mapping[str, Any], origin: str) -> None:
    """Refuse arguments that are more than numbers and plain words about an architecture.

    Raises:
        ConfigError: naming the first.
    """
    if not isinstance(arguments, Mapping):
        raise ConfigError(
            f"{origin}: expected arguments of the architecture, key: value, got {arguments!r:.80}"
        )
    for key, value in arguments.items():
        name = str(key)
        factory = name in of_factories() or FORBIDDEN.search(name)
        if name not in ARCHITECTURE and (factory or name[:1] == "_" or not name.isidentifier()):
            raise ConfigError(
                f"{origin}: {name[:60]!r} is no argument of an architecture and is refused: it could fetch "
                "or write files; leave it out. Weights are named in backbone.weights alone"
            )
        if not is_plain(value):
            raise ConfigError(
                f"{origin}: {name} is {value!r:.80}; allowed: a number up to {LARGEST:g}, true, false, null, "
                "a plain word of up to 40 letters, or a list of them"
            )


@cache
def of_factories() -> frozenset[str]:
    """Arguments of the functions that make models; new ones of a newer timm are among them."""
    factories = create_model, build_model_with_cfg, load_pretrained
    names = {name for function in factories for name in inspect.signature(function).parameters}
    return frozenset(names - {"kwargs", "model", "num_classes", "in_chans"} | {"num_classes"})


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value can say something about an architecture and nothing else."""
    if isinstance(value, list | tuple):
        return depth < 3 and len(value) <= MOST and all(is_plain(part, depth + 1) for part in value)
    if isinstance(value, str):
        return PLAIN.fullmatch(value) is not None
    if isinstance(value, bool) or value is None:
        return True
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST


def does_not_take(name: str, arguments: dict[str, Any], fault: Exception) -> str:
    """Say that a model does not know an argument."""
    return f"backbone.kwargs: {name} does not take {arguments}: {first_line(fault)}"
