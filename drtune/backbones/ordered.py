"""Torchvision's networks of numbered `features` under timm's names, layer by layer in their order.

Both libraries list the layers of these networks in the order in which they work, so the n-th of one is the
n-th of the other. That holds for the families below, each of which a test proves by comparing outputs;
elsewhere nothing is guessed.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

FAMILIES = {"EfficientNet", "MobileNetV3", "ConvNeXt"}
"""Classes of timm; its MobileNetV2 and MNASNet are EfficientNets."""
NUMBERED = re.compile(r"^features\.0\.0\.weight$|^layers\.0\.weight$")
OTHERWISE = {"layer_scale": "gamma"}


def in_order(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor] | None:
    """The state under the encoder's names; None where it is no such network, or layers do not match."""
    if type(encoder).__name__ not in FAMILIES or not any(NUMBERED.match(key) for key in state):
        return None
    theirs = layers({key: value for key, value in state.items() if not is_last_linear(key)})
    ours = layers(encoder.state_dict())
    if len(theirs) != len(ours):
        return None
    renamed: dict[str, Tensor] = {}
    order = sorted(theirs, key=lambda name: (name.startswith("classifier"), natural(name)))
    for name, there in zip(ours, order, strict=True):
        renamed |= {f"{name}.{OTHERWISE.get(tail, tail)}": value for tail, value in theirs[there].items()}
    return renamed


def demands_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What torchvision's networks have that shapes do not show; source: `norm_layer` of each builder there.

    Large EfficientNets, all EfficientNetV2 and MobileNetV3 normalise with an epsilon of 0.001; all pad alike
    on both sides, where timm's `tf_` networks pad as TensorFlow does.
    """
    is_v3 = any(key.startswith("features.1.block.") for key in state)
    is_v2 = any(key.startswith("features.1.0.block.") for key in state) and not any(
        re.match(r"features\.1\.0\.block\.\d\.fc1", key) for key in state
    )
    is_large = any(key.startswith("features.1.2.block.") for key in state)
    return {"bn_eps": 0.001 if is_v3 or is_v2 or is_large else 1e-5, "pad_type": "symmetric"}


def layers(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer and by their own name within it, in the order of the state."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        layer, _, tail = key.rpartition(".")
        found[layer][tail] = value
    return dict(found)


def is_last_linear(key: str) -> bool:
    """Whether a key belongs to the classifier; ConvNeXt's first part of it is a norm of the encoder."""
    return key.startswith("classifier.") and not key.startswith("classifier.0.")


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts numbers within names as numbers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
