"""Running out of memory, in words: what was lacking, and which settings make a stage take less."""

import re

from drtune.backbones.settings import BackboneSettings
from drtune.banks.settings import ExtractSettings
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.evaluation.settings import EvaluateSettings
from drtune.training.settings import TrainSettings

SIGNS = {
    "shared memory (/dev/shm)": r"Bus error|out of shared memory|shared memory object|file </torch_",
    "memory": r"killed by signal: Killed|can't allocate memory|not enough memory|Cannot allocate memory",
    "GPU memory": r"out of memory|STATUS_ALLOC_FAILED",
}
"""What was lacking -> what PyTorch says then; the first that fits."""
ADVICE = r" If reserved but| See documentation| Use PYTORCH| It is possible| Please try"
"""What PyTorch adds, and the settings that help more here."""


def shortage(fault: BaseException) -> tuple[str, str] | None:
    """(what was lacking, PyTorch's figures) where an exception, or one behind it, says so; else None."""
    seen: BaseException | None = fault
    while seen is not None:
        text = " ".join(str(seen).split())
        if isinstance(seen, MemoryError):
            return "memory", text or "no figures"
        for kind, sign in SIGNS.items() if isinstance(seen, RuntimeError) else ():
            if re.search(sign, text):
                return kind, re.split(ADVICE, text)[0].rstrip(".")
        seen = seen.__cause__ or seen.__context__
    return None


def out_of_memory(fault: BaseException, stage: str, params: Params) -> str | None:
    """What to say of an exception of a stage where it means that memory ran out; else None."""
    batch_sizes = {
        "extract": params[ExtractSettings].batch_size,
        "train": params[TrainSettings].batch_size,
        "evaluate": params[EvaluateSettings].batch_size,
    }
    if stage not in batch_sizes or (found := shortage(fault)) is None:
        return None
    kind, figures = found
    smaller = f"{stage}.batch_size ({batch_sizes[stage]})"
    fewer = f"lower runtime.workers ({params[RuntimeSettings].num_workers})"
    if kind == "memory":
        remedy = f"{fewer} or {smaller}"
    elif kind != "GPU memory":
        remedy = f"{fewer}, 0 needs none; in Docker set --shm-size 2g"
    else:
        size = params[BackboneSettings].image_size or "the backbone's own"
        remedy = f"lower {smaller} or backbone.image_size ({size}), or take a smaller backbone"
        if stage == "train" and params[TrainSettings].precision == "no":
            remedy += ", or set train.precision: bf16"
        remedy += "; nvidia-smi shows who else holds memory"
    return f"out of {kind}: {figures}. Remedy: {remedy}"
