"""WiSE-FT (Wortsman et al., CVPR 2022, Eq. 2): weights between the start and where training has come to."""

import copy

import torch
from torch import Tensor

from drtune.backbones.classifier import Classifier


class WeightEnsemble:
    """(1 - alpha) times the weights at the start plus alpha times those of now, buffers likewise.

    Args:
        model: gives the shape; copied, so that nothing hung on the original by others comes along.
        alpha: share of the trained weights, in (0, 1).
    """

    def __init__(self, model: Classifier, alpha: float) -> None:
        self.module = copy.deepcopy(model).eval()
        self.alpha = alpha
        self.start: dict[str, Tensor] = {}

    def begin(self, model: Classifier) -> None:
        """Keep this model's weights as the start."""
        self.start = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def of(self, model: Classifier) -> Classifier:
        """The ensemble with this model's weights, always the same object; whole numbers are the model's."""
        now = model.state_dict()
        mixed = {
            name: torch.lerp(start, now[name], self.alpha) if start.is_floating_point() else now[name]
            for name, start in self.start.items()
        }
        self.module.load_state_dict(mixed)
        return self.module
