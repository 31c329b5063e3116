"""DELTA: feature maps inside the encoder must stay near those of the frozen source, useful channels most.

    L       = L_CE + alpha Omega + beta / 2 ||head||²
    Omega   = 1/2 sum_layers sum_i sum_c  C w_c ||FM_c(x_i) - FM_c^0(x_i)||² / (H W)
    w       = softmax(z / 5) over the C channels of a layer, z the z-score of the rise in mean loss without c

FM_c is channel c of a layer's output, FM^0 that of the pretrained encoder in eval mode, i an image of the
batch. Li, Xiong, Wang, Rao, Liu, Chen, Huan, ICLR 2019 (arXiv 1901.09229); official code lixingjian/DELTA:
regulariser train.py:167-178 and weights train.py:109-116 at 6a8efc9, rises channel_eval.py at 45054d4.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from drtune.backbones.classifier import eval_mode, unwrapped
from drtune.banks.bank import FeatureBank
from drtune.data.batch import Batch
from drtune.methods.delta.feature_maps import by_channel, chosen_layers, loss_rises, outputs_of, widths_of
from drtune.methods.delta.settings import DELTASettings
from drtune.training.contract import Frozen, Loss, Method
from drtune.training.settings import TrainSettings

LAYERS = "methods.delta.layers"
TEMPERATURE = 5.0
"""Divides the z-scores (train.py:115)."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def map_distance(tuned: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    """Omega of one layer, float32; [B, C, P] each, and weights [C] whose sum is 1."""
    squares = (tuned.float() - source.float()).square().mean(dim=2)
    return 0.5 * len(weights) * (squares * weights).sum()


def channel_weights(rises: Tensor) -> Tensor:
    """[C] float32 weights of sum 1 from [C] rises of the loss; equal where all rises are."""
    spread = rises.std(correction=0)
    scores = (rises - rises.mean()) / torch.where(spread > 0, spread, 1.0)
    return torch.softmax(scores / TEMPERATURE, dim=0).float()


class DELTA(Method):
    """Behavioural regularisation with channel attention.

    `layers: auto` takes what the stages return; the official code takes the last convolution of each stage's
    last block, before its batch norm, which `layers` can name. The head solved on the bank takes the place of
    the head that the official code trains for ten epochs before it measures the rises.
    """

    settings: DELTASettings
    attention: Tensor

    def __init__(self, settings: DELTASettings, train: TrainSettings) -> None:
        super().__init__(settings, train)
        self.dtype = DTYPES.get(train.precision)

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Keep a frozen copy of the encoder, and weigh the channels of each layer.

        Raises:
            ConfigError: `layers` that the encoder does not have, does not run or that return no maps.
        """
        classifier, use = unwrapped(model), self.settings
        self.layers = chosen_layers(classifier.encoder, use.layers, LAYERS)
        self.source = Frozen(classifier.encoder)
        self.widths = widths_of(self.source.module, self.layers, next(iter(batches)).images, LAYERS)
        if use.channel_weights == "loss":
            with eval_mode(classifier):
                rises = loss_rises(classifier, self.widths, islice(batches, use.attention_batches))
        else:
            device = classifier.head.weight.device
            rises = {name: torch.zeros(width, device=device) for name, width in self.widths.items()}
        self.register_buffer("attention", torch.cat([channel_weights(values) for values in rises.values()]))

    @property
    def weights(self) -> dict[str, Tensor]:
        """Layer -> w [C]."""
        widths = self.widths
        return dict(zip(widths, torch.split(self.attention, [*widths.values()]), strict=True))

    def source_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the layers of the pretrained encoder return, in the precision that the model trains in."""
        context: AbstractContextManager[object] = nullcontext()
        if self.dtype is not None:
            context = torch.autocast(images.device.type, self.dtype)
        with context, outputs_of(self.source.module, self.layers) as found:
            self.source(images)
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross entropy, distance of the maps from the source's, and the head's decay."""
        classifier, use = unwrapped(model), self.settings
        with outputs_of(classifier.encoder, self.layers) as tuned:
            _, logits = model(batch.images)
        distances, source = [], self.source_outputs(batch.images)
        for name, weights in self.weights.items():
            now, before = (by_channel(found[name], classifier.encoder) for found in (tuned, source))
            distances.append(map_distance(now, before, weights))
        scale = use.alpha / (len(batch.labels) if use.reduction == "mean" else 1)
        head = torch.stack([parameter.square().sum() for parameter in classifier.head.parameters()]).sum()
        terms = {
            "cross_entropy": self.cross_entropy(logits, batch.labels),
            "feature_maps": torch.stack(distances).sum(),
            "head_decay": 0.5 * head,
        }
        return Loss(terms, {"feature_maps": scale, "head_decay": use.beta})
