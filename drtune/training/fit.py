"""Put data, backbone, bank and method together and train: what the train stage and every trial call."""

from dataclasses import dataclass
from pathlib import Path

from drtune.backbones.classifier import Classifier, init_head
from drtune.backbones.zoo import Backbone, build_backbone
from drtune.banks.bank import FeatureBank, open_bank
from drtune.banks.extract import bank_identity
from drtune.config import AugmentSettings, BackboneSettings, ExtractSettings, Params, TrainSettings
from drtune.data.card import DatasetCard, read_card
from drtune.data.loaders import eval_loader, train_loader
from drtune.data.packed import Split, open_split
from drtune.data.transforms import eval_transform, train_transform
from drtune.methods import build_method
from drtune.seeding import generator, seed_everything
from drtune.training.checkpoint import Progress
from drtune.training.loop import Hooks, Trainer


@dataclass(frozen=True)
class Fitted:
    """A finished training.

    Attributes:
        model: classifier with the weights of the best epoch.
        backbone: the encoder it came from and the input it expects.
        card: the data set it was trained on.
        progress: history and best epoch.
    """

    model: Classifier
    backbone: Backbone
    card: DatasetCard
    progress: Progress


def fit(params: Params, dataset: Path, bank: Path, hooks: Hooks) -> Fitted:
    """Train `train.method` on the training split and choose the epoch on the validation split.

    Args:
        params: settings, read together with those of every method.
        dataset: folder of the packed data set.
        bank: file of the feature bank; may be absent for methods that need none.
        hooks: reports and checkpoints.

    Raises:
        BankError: a bank made from other data, weights or transforms.
        TrainingError: the loss is no longer finite.
    """
    settings = params[TrainSettings]
    seed_everything(settings.seed, settings.deterministic)
    card = read_card(dataset)
    backbone = build_backbone(params[BackboneSettings])
    features = checked_bank(params, card, backbone, bank)
    model = backbone.classifier(len(card.classes))
    init_head(model.head, settings.head_init, generator(settings.seed, "head"))
    replay = None
    if features is not None and features.header.augmented:
        replay = (features.header.views, features.header.augment_seed)
    train = train_loader(
        open_split(dataset, Split.TRAIN),
        train_transform(backbone.spec, params[AugmentSettings]),
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        seed=settings.seed,
        workers=settings.workers,
        replay=replay,
    )
    val = eval_loader(
        open_split(dataset, Split.VAL),
        eval_transform(backbone.spec),
        batch_size=4 * settings.batch_size,
        workers=settings.workers,
    )
    trainer = Trainer(model, build_method(params), features, train, val, settings, hooks)
    progress = trainer.run()
    model.load_state_dict(progress.best_state)
    return Fitted(model, backbone, card, progress)


def checked_bank(params: Params, card: DatasetCard, backbone: Backbone, path: Path) -> FeatureBank | None:
    """Open the bank and make sure that it belongs to this data, these weights and these transforms."""
    if not path.is_file():
        return None
    bank = open_bank(path)
    bank.require(bank_identity(backbone, card, params[ExtractSettings], params[AugmentSettings]))
    return bank
