"""What is wrong with a checkpoint that does not fit or must not be used, and what to do about it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from drtune.backbones.naming import State
from drtune.base.errors import WeightsError


def refuse_other_traits(encoder: nn.Module, demands: Mapping[str, Any], origin: str) -> None:
    """Refuse an architecture whose shapes fit, and which computes something else.

    Args:
        encoder: as made.
        demands: arguments of `backbone.kwargs` and their values.
        origin: whose demands they are.

    Raises:
        WeightsError: naming the first that differs.
    """
    has = traits(encoder)
    for name, value in demands.items():
        if name in has and has[name] != value:
            raise WeightsError(
                f"backbone.weights: {origin} was trained with {name} {value}, and backbone.name makes a "
                f"network with {has[name]}; the shapes are equal, the results are not: set backbone.kwargs "
                f"to {{{name}: {value}}}, beside what stands there"
            )


def traits(encoder: nn.Module) -> dict[str, Any]:
    """Arguments of an architecture that shapes do not show, as far as it has them."""
    modules = list(encoder.modules())
    heads = [module.num_heads for module in modules if isinstance(getattr(module, "num_heads", None), int)]
    acts = [type(module).__name__ for module in modules if "GELU" in type(module).__name__]
    norms = [module.eps for module in modules if isinstance(module, nn.BatchNorm2d)]
    found: dict[str, Any] = {"num_heads": heads[0]} if heads else {}
    found |= {"act_layer": "quick_gelu" if acts[0] == "QuickGELU" else "gelu"} if acts else {}
    found |= {"bn_eps": norms[0]} if norms else {}
    same = any(type(module).__name__ == "Conv2dSame" for module in modules)
    return found | {"pad_type": "same" if same else "symmetric"}


def refuse_dead(state: State, origin: str) -> None:
    """Refuse numbers that no training leaves.

    Raises:
        WeightsError: naming a tensor that is not finite, or a matrix or kernel of zeros alone.
    """
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                f"backbone.weights: {origin}: {key} holds NaN or infinity: the training that wrote it had "
                "diverged, or the file is damaged; take an earlier checkpoint, or fetch it again"
            )
        if key.endswith(".weight") and value.ndim > 1 and not bool(value.any()):
            raise WeightsError(
                f"backbone.weights: {origin}: {key} holds zeros alone: the file was cut short and filled up, "
                "or its tensors are elsewhere (DeepSpeed, FSDP); fetch it again, or gather the weights first"
            )


def mismatch_text(origin: str, read_as: str, faults: Mapping[str, list[str]], first: str) -> str:
    """Say which keys do not fit, at most ten of a kind, and what to do about it.

    Args:
        origin: how errors name the checkpoint.
        read_as: whose file it was taken for.
        faults: keys by what is wrong with them.
        first: name of the weight of the encoder's first convolution.
    """
    lines = [f"backbone.weights: {origin} does not fit backbone.name (read as {read_as}):"]
    for kind, keys in faults.items():
        if keys:
            shown = ", ".join(sorted(keys)[:10]) + (f" … ({len(keys)} in all)" if len(keys) > 10 else "")
            lines.append(f"  {kind}: {shown}")
    lines.append(f"  remedy: {remedy(faults, first)}")
    return "\n".join(lines)


def remedy(faults: Mapping[str, list[str]], first: str) -> str:
    """What to do about a checkpoint that does not fit; arguments as of `mismatch_text`."""
    wrong = {kind for kind, keys in faults.items() if keys}
    if "norm.weight" in faults["missing"] and "fc_norm.weight" in faults["unexpected"]:
        return "these weights pool the mean of their tokens: set backbone.kwargs to {global_pool: avg}"
    if wrong == {"unexpected"}:
        return (
            "every tensor of the encoder is there; if the others belong to the pre-training alone, save the "
            "file without them; if not, name the architecture that has them in backbone.name and "
            "backbone.kwargs"
        )
    shapes = rf"{re.escape(first)} \(\d+, (\d+), .* instead of \(\d+, 3, "
    channels = re.match(shapes, "".join(faults["of another shape"]))
    if wrong == {"of another shape"} and channels is not None:
        return (
            f"these weights take images of {channels[1]} channels, and images are given as red, green and "
            f"blue; keep the channels of {first} that are these three, in this order, and save the file"
        )
    return "name the architecture these weights were made for in backbone.name and backbone.kwargs"
