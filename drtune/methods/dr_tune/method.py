"""DR-Tune: the head must also classify the pretrained features, calibrated to where the encoder has moved.

    L = L_CE + lambda R_DR                                                                    (Eq. 14)
    R_DR = -(1/K) sum_k log softmax_{y_k}( phi . (R v_k + delta_{y_k}) )                      (Eq. 13)

Zhou, Chen, Huang, "DR-Tune", ICCV 2023; official code weeknan/DR-Tune at ef9a7b1. R and delta come from a
ring of the last K pairs (pretrained, downstream), see `drtune/calibration.py`; R_DR trains the head alone.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import unwrapped
from drtune.banks.bank import FeatureBank
from drtune.base.errors import BankError
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.dr_tune.calibration import procrustes, regularized, rescale, scores, translate
from drtune.methods.dr_tune.ring import RingBank
from drtune.methods.dr_tune.settings import DRTuneSettings
from drtune.training.contract import LossTerms, Stateless
from drtune.training.settings import TrainSettings


class DRTune(Stateless):
    """Distribution regularisation with semantic calibration.

    Steps are counted over the whole training. The official code counts batches within the epoch, so that its
    rotations fall on the same steps where `rotation_every` divides the steps of an epoch.
    """

    Settings = DRTuneSettings

    def __init__(self, settings: DRTuneSettings, train: TrainSettings) -> None:
        self.settings = settings
        self.seed, self.label_smoothing = train.seed, train.label_smoothing
        self.step = 0
        self.rotation: Tensor | None = None

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
            self.encoder = copy.deepcopy(classifier.encoder).requires_grad_(False).eval()
        capacity = min(self.settings.bank_size, bank.num_rows)
        device = classifier.head.weight.device
        self.ring = RingBank(capacity, bank.dim, device, normalize=self.settings.normalize)
        random = generator(self.seed, "dr_tune", "ring")
        rows = torch.randperm(bank.num_rows, generator=random)[:capacity]
        features = bank.rows(torch.randint(bank.views, (capacity,), generator=random), rows)
        self.ring.push(features, features, bank.labels[rows])

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Eq. 14 on the batch, and on the ring as it was before the batch."""
        features, logits = model(batch.images)
        self.pair = (self.pretrained(batch), features.detach())
        distribution = cross_entropy(*self.bank_scores(unwrapped(model).head, features.detach()))
        objective = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        weight = self.settings.weight
        weight = len(self.ring) / len(batch.labels) if isinstance(weight, str) else weight
        objective, distribution = regularized(objective, distribution, weight, self.settings.loss_scale)
        return {"cross_entropy": objective, "distribution": distribution}

    @torch.no_grad()
    def pretrained(self, batch: Batch) -> Tensor:
        """[B, D] features before fine-tuning: of the view that the batch replays, or of its very tensor."""
        if self.settings.bank == "online":
            return self.encoder(batch.images)  # type: ignore[no-any-return]
        return self.bank.rows(batch.view, batch.index).to(batch.labels.device, non_blocking=True)

    def bank_scores(self, head: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
        """[k, C] scores and [k] labels of the rows whose turn it is; the batch's `features` set the scale."""
        use, ring = self.settings, self.ring
        pretrained, downstream = ring.units if use.normalize else (ring.pretrained, ring.downstream)
        if use.rotation != "off" and self.step % use.rotation_every == 0:
            proper, center = use.rotation == "proper", use.rotation_center
            self.rotation = procrustes(pretrained, downstream, proper=proper, center=center)
        elif use.rotation_between == "none":
            self.rotation = None
        turn = ring.turn(self.step, use.rows_per_step)
        rows, labels = pretrained[turn], ring.labels
        if use.translation:
            phi, how = head.weight, (use.confidence, use.temperature)
            rows = translate(pretrained, downstream, labels, phi, self.rotation, *how, turn)
        if use.rescale == "batch":
            rows = rescale(rows, features)
        return scores(rows, head.weight, head.bias, self.rotation), labels[turn]

    def after_step(self, batch: Batch) -> None:
        """Put the batch's pairs into the ring."""
        self.ring.push(*self.pair, batch.labels)
        self.step += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The ring, the rotation in use and the number of steps done."""
        state = {f"ring.{name}": value for name, value in self.ring.state_dict().items()}
        rotation = {} if self.rotation is None else {"rotation": self.rotation}
        return {**state, **rotation, "step": torch.tensor(self.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned, after `prepare` with the same settings."""
        self.ring.load_state_dict({name: state[f"ring.{name}"] for name in self.ring.state_dict()})
        self.step, rotation = int(state["step"]), state.get("rotation")
        self.rotation = None if rotation is None else rotation.to(self.ring.labels.device, copy=True)
