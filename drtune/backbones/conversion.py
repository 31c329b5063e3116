"""From an author's names and shapes to those of a timm encoder, by timm's own filter where it has one."""

import contextlib
import io
import re
import sys
import warnings

from timm.models import adapt_input_conv
from torch import Tensor, nn

from drtune.backbones.naming import State, joined

FILTERS = (
    *("checkpoint_filter_fn", "_filter_fn", "checkpoint_filter_fn_encoder"),
    "_filter_torchvision_pretrained",
)
LONGEST_SIDE, LONGEST_KERNEL = 256, 64
"""Patches along a side of the largest position embedding that is resampled; pixels along that of a patch."""


def converted(encoder: nn.Module, renamed: State) -> tuple[dict[str, Tensor], list[str]]:
    """A state under nearly timm's names as the encoder needs it.

    Returns:
        The state, which may still lack keys or have others; what changed a meaning, in words.
    """
    expected = encoder.state_dict()
    ready = joined(renamed, expected)
    changes = spread(ready, expected)
    found = filtered(encoder, ready)
    changes += resampled(ready, found) + settle(found, expected, first_weight(encoder))
    found |= {key: renamed[key] for key in lost_biases(renamed, found)}
    found |= other_patches(ready, found)
    return found, changes


def filtered(encoder: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as timm's own `checkpoint_filter_fn` of this architecture converts it, if it does."""
    module = sys.modules[type(encoder).__module__]
    convert = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    if convert is None or any(is_huge(key, value) for key, value in state.items()):
        return state
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of old functions, and prints what it looks for in vain
            try:
                found = convert(dict(state), encoder)
            except TypeError:
                found = convert(dict(state))
    except Exception:  # of files of another architecture; what does not fit is listed
        return state
    found = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    lost = [sum(key not in names for key in encoder.state_dict()) for names in (state, found)]
    return state if lost[0] < lost[1] else found


def is_huge(key: str, value: Tensor) -> bool:
    """Whether a tensor would cost more to resample than any published one does."""
    if value.ndim == 4 and ("patch" in key or "conv1" in key):
        return max(value.shape[-2:]) > LONGEST_KERNEL
    return "pos" in key and value.ndim in (2, 3) and value.shape[-2] > LONGEST_SIDE**2


def spread(state: dict[str, Tensor], expected: State) -> list[str]:
    """Give the one table of relative positions that BEiT trains with to every block, as timm has it.

    Changes the state; returns what changed, in words. Source: microsoft/unilm beit/run_class_finetuning.py.
    """
    for key in [key for key in state if key.endswith("relative_position_index") and key not in expected]:
        del state[key]
    name = "rel_pos_bias.relative_position_bias_table"
    if name not in state or name in expected:
        return []
    shared = state.pop(name)
    tables = [key for key in expected if key.endswith(".attn.relative_position_bias_table")]
    state |= dict.fromkeys(tables, shared)
    return ["the one table of relative positions given to every block"]


def settle(state: dict[str, Tensor], expected: State, first: str) -> list[str]:
    """Even out small differences between codes for one network.

    Changes the state; returns what changed a meaning, in words.

    Args:
        state: nearly under the names of the encoder.
        expected: its own.
        first: name of the weight of the first convolution.
    """
    changes = []
    for key in list(state):
        scale = re.sub(r"gamma_(\d)$", r"ls\1.gamma", key)
        if key not in expected and scale in expected:
            state[scale] = state.pop(key)
        apart = [key.replace("qkv.bias", f"{part}_bias") for part in "qv"]
        if key.endswith("qkv.bias") and key not in expected and set(apart) <= set(expected):
            q, k, v = state[key].chunk(3)
            if not k.any():
                del state[key]
                state |= zip(apart, (q, v), strict=True)
    norms = {key: f"fc_{key}" for key in ("norm.weight", "norm.bias")}
    theirs, ours = norms.keys() & state.keys() - expected.keys(), set(norms.values()) & expected.keys()
    if len(theirs) == len(ours) == 2 and not ours & state.keys():
        state |= {new: state.pop(key) for key, new in norms.items()}
        changes.append("norm, of the tokens, taken as fc_norm, of their mean")
    if first in state and first in expected and state[first].shape[1:2] == (1,) != expected[first].shape[1:2]:
        state[first] = adapt_input_conv(int(expected[first].shape[1]), state[first], base_chans=1)
        changes.append(f"{first}, for grey images, shared among red, green and blue")
    for key, value in state.items():
        wanted = expected[key].shape if key in expected else value.shape
        if value.shape != wanted and [n for n in value.shape if n > 1] == [n for n in wanted if n > 1]:
            state[key] = value.reshape(wanted)
    return changes


def made_anew(before: State, after: State, *endings: str) -> list[str]:
    """Keys with one of these endings whose numbers stood nowhere before: timm has resampled them."""
    there = {value.untyped_storage().data_ptr() for value in before.values()}
    keys = [key for key in after if key.endswith(endings)]
    return [key for key in keys if after[key].untyped_storage().data_ptr() not in there]


def resampled(before: State, after: State) -> list[str]:
    """Which positions timm has resampled to the encoder's image size, in words."""
    names = made_anew(before, after, "pos_embed", "bias_table")
    shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return [f"resampled to this image size: {shown}"] if names else []


def other_patches(before: State, after: State) -> dict[str, Tensor]:
    """Kernels of patches that timm has resampled, as they were: another patch is another network."""
    found = {}
    for key in made_anew(before, after, "patch_embed.proj.weight"):
        kernels = [value for value in before.values() if value.ndim == 4]
        like = [value for value in kernels if value.shape[:2] == after[key].shape[:2]]
        if like and like[0].shape != after[key].shape:
            found[key] = like[0]
    return found


def first_weight(encoder: nn.Module) -> str:
    """Name of the weight of the first convolution."""
    return str((getattr(encoder, "pretrained_cfg", None) or {}).get("first_conv")) + ".weight"


def lost_biases(before: State, after: State) -> list[str]:
    """Biases other than zero that timm's filter drops, because its network has none and is another one."""
    names = ("qkv.bias", "q_bias", "q_proj.bias")
    biases = [key for key in before if key.endswith("attn.qkv.bias") and before[key].any()]
    return [key for key in biases if not any(key.replace(names[0], name) in after for name in names)]
