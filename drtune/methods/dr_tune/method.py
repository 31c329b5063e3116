"""DR-Tune: the head must also classify the pretrained features, calibrated to where the encoder has moved.

    L = L_CE + lambda R_DR                                                                    (Eq. 14)
    R_DR = -(1/K) sum_k log softmax_{y_k}( phi . (R v_k + delta_{y_k}) )                      (Eq. 13)

Zhou, Chen, Huang, "DR-Tune", ICCV 2023; official code weeknan/DR-Tune at ef9a7b1. R and delta come from a
ring of the last K pairs (pretrained, downstream), see `calibration.py`; R_DR trains the head alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import unwrapped
from drtune.banks.bank import FeatureBank
from drtune.base.errors import BankError
from drtune.base.seeding import generator
from drtune.data.batch import Batch, sent
from drtune.methods.dr_tune.calibration import procrustes, rescale, scores, translate
from drtune.methods.dr_tune.ring import Ring
from drtune.methods.dr_tune.settings import DRTuneSettings
from drtune.training.contract import Frozen, Loss, Method
from drtune.training.losses import unit_rows


class DRTune(Method):
    """Distribution regularisation with semantic calibration.

    Steps are counted over the whole training. The official code counts batches within the epoch, so that its
    rotations fall on the same steps where `rotation_every` divides the steps of an epoch.
    """

    settings: DRTuneSettings
    rotation: Tensor

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Fill the ring with pairs (pretrained, pretrained) of training images drawn by `train.seed`.

        The ring holds min(K, N) pairs: no slot is ever random, and no pair is kept for much over an epoch.

        Raises:
            BankError: no bank, or features of another width than the model's.
        """
        classifier = unwrapped(model)
        if bank is None:
            raise BankError("dr_tune needs the feature bank, and there is none; run `dvc repro extract`")
        if bank.dim != classifier.feature_dim:
            widths = f"{bank.dim} features a row, the model {classifier.feature_dim}"
            raise BankError(f"the feature bank has {widths}; run `dvc repro extract`")
        self.bank = bank
        if self.settings.bank == "online":
            self.encoder = Frozen(classifier.encoder)
        capacity = min(self.settings.bank_size, bank.num_rows)
        device = classifier.head.weight.device
        random = generator(self.seed, "dr_tune", "ring")
        rows = torch.randperm(bank.num_rows, generator=random)[:capacity]
        features = bank.rows(torch.randint(bank.views, (capacity,), generator=random), rows)
        first = self.in_ring(features).to(device)
        self.ring = Ring(first, first, bank.labels[rows].to(device))
        if self.settings.rotation != "off":
            self.register_buffer("rotation", torch.eye(bank.dim, device=device))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Eq. 14 on the batch, and on the ring as it was before the batch."""
        features, logits = model(batch.images)
        terms = {
            "cross_entropy": self.cross_entropy(logits, batch.labels),
            "distribution": cross_entropy(*self.bank_scores(unwrapped(model).head, features.detach())),
        }
        pair = self.in_ring(self.pretrained(batch)), self.in_ring(features.detach())
        return Loss(terms, self.weights(len(batch.labels)), kept=pair)

    def weights(self, rows: int) -> dict[str, float]:
        """Of the terms, for a batch of `rows`.

        `loss_scale: mean` is (L_CE + lambda R_DR) / (1 + lambda), which for lambda = K/B is the mean over
        B + K rows of the official code (worker.py:131).
        """
        weight = self.settings.weight
        weight = len(self.ring) / rows if isinstance(weight, str) else weight
        total = 1 + weight if self.settings.loss_scale == "mean" else 1.0
        return {"cross_entropy": 1 / total, "distribution": weight / total}

    def in_ring(self, rows: Tensor) -> Tensor:
        """Features [K, D] as the ring keeps them."""
        return unit_rows(rows) if self.settings.normalize else rows.float()

    @torch.no_grad()
    def pretrained(self, batch: Batch) -> Tensor:
        """[B, D] features before fine-tuning: of the view that the batch replays, or of its very tensor."""
        if self.settings.bank == "online":
            return self.encoder(batch.images)  # type: ignore[no-any-return]
        return sent(self.bank.rows(batch.view, batch.index), batch.labels.device)

    def bank_scores(self, head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
        """[k, C] scores and [k] labels of the rows whose turn it is; the batch's `features` set the scale."""
        use, ring, rotation = self.settings, self.ring, self.current_rotation()
        turn = ring.turn(self.step, use.rows_per_step)
        rows = ring.pretrained[turn]
        if use.translation:
            phi, how = head.weight, (use.confidence, use.temperature)
            rows = translate(ring.pretrained, ring.downstream, ring.labels, phi, rotation, *how, turn)
        if use.rescale == "batch":
            rows = rescale(rows, features)
        return scores(rows, head.weight, head.bias, rotation), ring.labels[turn]

    def current_rotation(self) -> Tensor | None:
        """R of this step, anew every `rotation_every` steps; None is no rotation."""
        use = self.settings
        if use.rotation == "off":
            return None
        if self.step % use.rotation_every == 0:
            pair, proper = (self.ring.pretrained, self.ring.downstream), use.rotation == "proper"
            self.rotation = procrustes(*pair, proper=proper, center=use.rotation_center)
            return self.rotation
        return self.rotation if use.rotation_between == "keep" else None

    def after_step(self, batch: Batch, kept: tuple[Tensor, Tensor]) -> None:
        """Put the batch's pairs into the ring."""
        self.ring.push(*kept, batch.labels)
