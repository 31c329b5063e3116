"""Fine-tuning methods, one file each; `contract.py` is the page to read first."""

from collections.abc import Mapping
from typing import Any

from drtune.config import Params, Settings, TrainSettings
from drtune.methods.bi_tuning import BiTuning
from drtune.methods.bss import BSS
from drtune.methods.contract import Method
from drtune.methods.core_tuning import CoreTuning
from drtune.methods.daft import DAFT
from drtune.methods.delta import DELTA
from drtune.methods.dr_tune import DRTune
from drtune.methods.finetune import FineTune
from drtune.methods.linear_probe import LinearProbe
from drtune.methods.lp_ft import LPFT
from drtune.methods.sp import SP
from drtune.methods.supcon import SupCon

METHODS: Mapping[str, type[Method]] = {
    "bi_tuning": BiTuning,
    "bss": BSS,
    "core_tuning": CoreTuning,
    "daft": DAFT,
    "delta": DELTA,
    "dr_tune": DRTune,
    "finetune": FineTune,
    "linear_probe": LinearProbe,
    "lp_ft": LPFT,
    "sp": SP,
    "supcon": SupCon,
}
SETTINGS: Mapping[str, type[Settings]] = {name: method.Settings for name, method in METHODS.items()}


def build_method(params: Params) -> Method:
    """Build the method that `train.method` names; `params` was loaded with `SETTINGS`."""
    train = params[TrainSettings]
    method: Any = METHODS[train.method]
    return method(params.method(train.method), train)  # type: ignore[no-any-return]
