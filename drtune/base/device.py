"""Which device a stage computes on."""

import torch


def pick_device(choice: str) -> torch.device:
    """The device for `auto` (a GPU where there is one) or `cpu`."""
    return torch.device("cuda" if choice == "auto" and torch.cuda.is_available() else "cpu")
