"""What layers inside an encoder return: which ones end a stage, reading them, and silencing their channels.

Letters: B samples of a batch, C channels, P positions (H x W of a map, or tokens).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.errors import ConfigError
from drtune.base.faults import unknown_value
from drtune.data.batch import Batch

FIRST_REDUCTION = 4
"""Stages count from a quarter of the image's side on; what comes before is the stem."""


def stage_ends(encoder: nn.Module) -> list[str]:
    """Names of the modules that end a stage, from timm's `feature_info`; none where the encoder lists none.

    A stage is what works at one resolution, so a network of equal blocks (ViT) has one end: its last block.
    """
    modules = dict(encoder.named_modules())
    ends: dict[int, str] = {}
    for stage in getattr(encoder, "feature_info", None) or []:
        name, reduction = stage.get("module"), stage.get("reduction", 0)
        if name and name in modules and reduction >= FIRST_REDUCTION:
            ends[reduction] = name
    return list(ends.values())


def chosen_layers(encoder: nn.Module, layers: str | Sequence[str], setting: str) -> list[str]:
    """The layers that a setting names, `auto` for `stage_ends`.

    Args:
        encoder: where they are looked up.
        layers: `auto` or module names.
        setting: dotted name of the setting, for faults.

    Raises:
        ConfigError: no such module, or `auto` for an encoder that lists no stages.
    """
    known = [name for name, _ in encoder.named_modules() if name]
    if isinstance(layers, str):
        ends = stage_ends(encoder)
        if not ends:
            top = ", ".join(name for name, _ in encoder.named_children())
            kind = type(encoder).__name__
            what = f"auto takes the stages that timm lists, and the backbone ({kind}) lists none"
            raise ConfigError(f"{setting}: {what}; name modules of it instead, such as {top}")
        return ends
    for name in layers:
        if name not in known:
            raise ConfigError(f"{setting}: the module {unknown_value(name, known)}")
    return list(layers)


def channel_axis(output: Tensor, encoder: nn.Module) -> int:
    """Axis of the channels in [B, C], tokens [B, P, C] or maps [B, C, H, W].

    Maps are [B, H, W, C] where timm says so of the encoder (`output_fmt`, Swin for one).
    """
    last = output.ndim != 4 or getattr(encoder, "output_fmt", "NCHW") == "NHWC"
    return output.ndim - 1 if last else 1


def by_channel(output: Tensor, encoder: nn.Module) -> Tensor:
    """A layer's output as [B, C, P]."""
    return output.movedim(channel_axis(output, encoder), 1).unsqueeze(2).flatten(2)


@contextmanager
def outputs_of(encoder: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Within the block, each forward pass leaves what the named layers return in the dictionary.

    The hooks are removed at the end, whatever happens, so that no copy or file of the encoder carries them.
    The tensors are not copied: what the next layer changes in place (ReLU, in some networks) is seen.
    """
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, inputs, output: found.update({name: output})

    modules = {name: encoder.get_submodule(name) for name in layers}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def widths_of(encoder: nn.Module, layers: Iterable[str], images: Tensor, setting: str) -> dict[str, int]:
    """Layer -> C, found by running images [B, 3, H, W].

    Raises:
        ConfigError: naming `setting`, for a layer that does not run, or returns no [B, C], [B, P, C] or
            [B, C, H, W].
    """
    with outputs_of(encoder, layers) as found:
        encoder(images)
    for name in layers:
        if name not in found:
            raise ConfigError(f"{setting}: the module {name!r} does not run in a forward pass; name another")
        output = found[name]
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
            got = (
                f"a tensor of {output.ndim} axes"
                if isinstance(output, Tensor)
                else f"a {type(output).__name__}"
            )
            allowed = "one tensor [B, C], [B, P, C] or [B, C, H, W]"
            raise ConfigError(
                f"{setting}: the module {name!r} returns {got}, expected {allowed}; name another"
            )
    return {name: by_channel(found[name], encoder).shape[1] for name in layers}


@contextmanager
def silenced(encoder: nn.Module, layer: str, channel: int) -> Iterator[None]:
    """Within the block, one channel of a layer's output is zero at every position."""

    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output.select(channel_axis(output, encoder), channel).zero_()
        return output

    handle = encoder.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def loss_rises(model: Classifier, widths: Mapping[str, int], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Mean rise of the cross entropy over batches when a channel is silenced: layer -> [C] float64.

    One forward pass for each channel and batch, without autocast, because a single channel often moves the
    loss by less than bfloat16 resolves.

    Args:
        model: in eval mode.
        widths: layer -> C.
        batches: each counts the same.
    """
    rises: dict[str, list[Tensor]] = {layer: [] for layer in widths}

    def loss(batch: Batch) -> Tensor:
        logits = model.head(model.encoder(batch.images))  # not model(...), which Accelerate wraps in autocast
        return cross_entropy(logits.double(), batch.labels)

    for batch in batches:
        whole = loss(batch)
        for layer, width in widths.items():
            without = []
            for channel in range(width):
                with silenced(model.encoder, layer, channel):
                    without.append(loss(batch))
            rises[layer].append(torch.stack(without) - whole)
    return {layer: torch.stack(rows).mean(dim=0) for layer, rows in rises.items()}
