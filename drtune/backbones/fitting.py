"""Find the encoder in a checkpoint and copy it into a timm encoder, strictly.

Every place of the file that holds numbers enough is tried under every naming that is known (`naming.py`), and
timm's own `checkpoint_filter_fn` converts what its architectures need (`conversion.py`). A place fits where
every encoder key is there with its shape, and nothing is left over but what stands on an encoder. Where two
places fit with different numbers, the table of records (`wrappings.py`) says which is meant; where it does
not, nothing is loaded.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from drtune.backbones.conversion import converted, first_weight
from drtune.backbones.naming import NAMINGS, TORCHVISION, State
from drtune.backbones.ordered import demands_of, in_order
from drtune.backbones.refusals import mismatch_text, refuse_dead, refuse_other_traits
from drtune.backbones.wrappings import ON_TOP, Input, Wrapping, base_of, speaking
from drtune.base.errors import WeightsError

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Names that DistributedDataParallel, torch.compile, FSDP and the like put between those of a network."""
SHARE = 0.5
"""Of the encoder's numbers that a place of the file must hold to be tried."""
DEEPEST, MOST_PLACES = 16, 32
"""Dots in a key at which a place may begin; places of a file."""


class Fit(NamedTuple):
    """One reading of a checkpoint.

    Attributes:
        prefix: what stands before the encoder's keys in the file.
        naming: whose names they have.
        state: tensors under the encoder's names.
        input: what that library feeds to all its networks, as far as it does.
        record: what is known of such files, if anything.
        demands: arguments of the architecture that such files need.
        changes: what was done to tensors, in words.
        faults: encoder keys by what is wrong with them.
    """

    prefix: str
    naming: str
    state: dict[str, Tensor]
    input: Input
    record: Wrapping | None
    demands: Mapping[str, Any]
    changes: list[str]
    faults: dict[str, list[str]]

    @property
    def origin(self) -> str:
        """Whose file it seems to be, for people."""
        where = f" at {self.prefix.removesuffix('.')}" if self.prefix else ""
        return f"{self.record.origin if self.record else self.naming}{where}"


def load_encoder(encoder: nn.Module, state: State, classifier: str, origin: str) -> Fit:
    """Copy a checkpoint into an encoder in place, or refuse it whole.

    Args:
        encoder: timm model without its classifier.
        state: named tensors as read.
        classifier: name of the classifier in this architecture (timm's `pretrained_cfg`); its keys may be
            in the checkpoint and are left out.
        origin: how errors name the checkpoint.

    Returns:
        How the checkpoint was read.

    Raises:
        WeightsError: listing missing, unexpected and misshapen keys; naming two encoders of which either
            could be meant, or numbers that no training leaves.
    """
    plain = {unwrapped(key): value for key, value in state.items()}
    state = plain if len(plain) == len(state) else state  # else two encoders would become one
    fits = [
        fit
        for prefix in places(encoder, state)
        for fit in readings(encoder, state, prefix, {classifier, *ON_TOP} - {""})
    ]
    whole = [fit for fit in fits if not any(fit.faults.values())]
    whole += around(fits, tuple(fit.prefix for fit in whole if fit.prefix))
    if not whole:
        closest = max(fits, key=lambda fit: -len(fit.faults["missing"]) - len(fit.faults["of another shape"]))
        raise WeightsError(mismatch_text(origin, closest.origin, closest.faults, first_weight(encoder)))
    fit = the_one_meant(whole, origin)
    refuse_other_traits(encoder, fit.demands, f"{origin} ({fit.origin})")
    refuse_dead(fit.state, origin)
    encoder.load_state_dict(fit.state, strict=False)
    return fit


def around(fits: list[Fit], inner: tuple[str, ...]) -> list[Fit]:
    """Readings that fit but for another encoder within them, which is at one of the `inner` places."""
    found = []
    for fit in fits:
        extra = fit.faults["unexpected"]
        others = [fault for kind, fault in fit.faults.items() if kind != "unexpected"]
        if extra and not any(others) and all((fit.prefix + key).startswith(inner or "\0") for key in extra):
            kept = {key: value for key, value in fit.state.items() if key not in extra}
            found.append(fit._replace(state=kept, faults={}))
    return found


def unwrapped(key: str) -> str:
    """A key without the names that torch.compile, FSDP and checkpointing add anywhere in it."""
    return ".".join(part for part in key.split(".") if part == "module" or part not in WRAPPERS)


def places(encoder: nn.Module, state: State) -> list[str]:
    """Beginnings of keys, up to a dot, under which numbers enough for the encoder stand; shortest first.

    Raises:
        WeightsError: more than anybody writes.
    """
    numbers: Counter[str] = Counter()
    for key, value in state.items():
        parts = key.split(".")[: DEEPEST + 1]
        numbers.update({".".join([*parts[:n], ""]): value.numel() for n in range(1, len(parts))})
    needed = SHARE * sum(value.numel() for value in encoder.state_dict().values())
    found = sorted((place for place, held in numbers.items() if held >= needed), key=len)
    if len(found) > MOST_PLACES:
        raise WeightsError(
            f"backbone.weights: the encoder may be at {len(found):,} places of the file, {MOST_PLACES} are "
            "looked at; save the one that you mean alone, with torch.save"
        )
    return ["", *found]


def readings(encoder: nn.Module, state: State, prefix: str, on_top: set[str]) -> list[Fit]:
    """The part of a checkpoint at one place, read under every naming that its keys may have."""
    expected = encoder.state_dict()
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    plain = {without_wrappers(key): None for key in state}
    record = speaking(without_wrappers(prefix), plain)
    demands = dict(record.demands) if record else {}
    named = [(naming.origin, naming.input, naming.rename(inner), demands) for naming in NAMINGS]
    named.append(("torchvision", TORCHVISION, in_order(inner, encoder), demands | demands_of(inner)))
    fits = []
    for origin, feeds, renamed, demanded in named:
        if renamed is not None:
            try:
                found, changes = converted(encoder, renamed)
            except (RuntimeError, ValueError, IndexError):  # of shapes that are no network's
                found, changes = renamed, []
            beside = record.beside if record else ()
            kept = {
                key: value
                for key, value in found.items()
                if key in expected or not (key.split(".")[0] in on_top or key.startswith(beside or "\0"))
            }
            faults = faults_of_fit(kept, expected)
            fits.append(Fit(prefix, origin, kept, feeds, record, demanded, changes, faults))
    return fits


def without_wrappers(key: str) -> str:
    """A key or prefix without the names that wrappers add, `module` among them."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def faults_of_fit(state: State, expected: State) -> dict[str, list[str]]:
    """Encoder keys by what is wrong with them; counters that old checkpoints lack may be missing."""
    there = [key for key in expected if key in state]
    return {
        "missing": [k for k in expected if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in there
            if state[key].shape != expected[key].shape
        ],
        "no floating-point numbers": [
            f"{key} {state[key].dtype}"
            for key in there
            if expected[key].is_floating_point() and not state[key].is_floating_point()
        ],
    }


def the_one_meant(fits: list[Fit], origin: str) -> Fit:
    """Of readings that fit whole, the one that the table of records means; all of equal numbers are one.

    Raises:
        WeightsError: two with different numbers are left.
    """

    def sets_aside(one: Fit, other: Fit) -> bool:
        if one.record is None or not one.record.beside:
            return False
        base = base_of(one.record, without_wrappers(one.prefix)) or ""
        beside = tuple(base + part for part in one.record.beside)
        return without_wrappers(other.prefix).startswith(beside)

    left = [fit for fit in fits if not any(sets_aside(other, fit) for other in fits if other is not fit)]
    best = max(left or fits, key=lambda fit: fit.record is not None)
    for fit in left:
        pairs = [(value, fit.state[key]) for key, value in best.state.items() if key in fit.state]
        if any(one.data_ptr() != two.data_ptr() and not torch.equal(one, two) for one, two in pairs):
            names = [part.prefix.removesuffix(".") or "the top" for part in (best, fit)]
            raise WeightsError(
                f"backbone.weights: {origin} holds two encoders that both fit and differ, at {names[0]!r} "
                f"and {names[1]!r}; save the one that you mean alone, with torch.save"
            )
    return best


def left_out(fit: Fit, state: State) -> list[str]:
    """Parts of a checkpoint of which no tensor is in the encoder, by the names that tell them apart."""
    used = {value.data_ptr() for value in fit.state.values()}
    depth = fit.prefix.count(".")
    parts: dict[str, bool] = {}
    for key, value in state.items():
        names = unwrapped(key).split(".")
        inner = unwrapped(key).startswith(fit.prefix)
        part = ".".join(names[: depth + 1 if inner else max(depth, 1)])
        same = inner and any(
            own.startswith(names[depth]) for own in (fit.state if len(names) == depth + 1 else ())
        )
        parts[part] = parts.get(part, False) or same or (value.numel() > 1 and value.data_ptr() in used)
    return sorted(part for part, is_used in parts.items() if not is_used)
