"""Fine-tuning methods, one file each; `contract.py` is the page to read first."""

from collections.abc import Mapping
from typing import Any

from drtune.config import Params, Settings, TrainSettings
from drtune.methods.contract import Method
from drtune.methods.dr_tune import DRTune
from drtune.methods.finetune import FineTune
from drtune.methods.linear_probe import LinearProbe

METHODS: Mapping[str, type[Method]] = {
    "dr_tune": DRTune,
    "finetune": FineTune,
    "linear_probe": LinearProbe,
}
SETTINGS: Mapping[str, type[Settings]] = {name: method.Settings for name, method in METHODS.items()}


def build_method(params: Params) -> Method:
    """Build the method that `train.method` names; `params` was loaded with `SETTINGS`."""
    train = params[TrainSettings]
    method: Any = METHODS[train.method]
    return method(params.method(train.method), train)  # type: ignore[no-any-return]
