"""`methods.lp_ft` in params.yaml."""

from drtune.base.settings import Settings
from drtune.training.settings import TrainSettings


class LPFTSettings(Settings):
    """`methods.lp_ft`: none of its own; what it replaces of `train` makes it what it is."""

    def cross_faults(self, train: TrainSettings) -> list[tuple[str, str]]:
        """Faults that only show beside `train`."""
        if train.head_init == "bank":
            return []
        what = f"expected 'bank', got {train.head_init!r}: without the solved head lp_ft is plain fine-tuning"
        return [("train.head_init", f"{what}; set methods.lp_ft.train.head_init: bank, or another method")]
