"""The card of a packed data set, `dataset.json`: what it holds and how it was made."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from drtune.base.errors import DataError
from drtune.base.faults import some
from drtune.base.files import write_json
from drtune.data.settings import STANDARD, Reading

CARD_NAME = "dataset.json"


class Skipped(BaseModel):
    """A file left out because it could not be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    reason: str


class Leaks(BaseModel):
    """Images whose bytes also stand where they should not.

    Attributes:
        count: number of images; between splits those of test found in train or val, plus val found in train.
        examples: the first few, each as `ID (test) = ID (train)`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    examples: tuple[str, ...]


NONE = Leaks(count=0, examples=())


class DatasetCard(BaseModel):
    """Everything known about one packed data set.

    Attributes:
        name: of the record or folder that `data.source` names.
        title: for people.
        classes: class names in label order; a label is an index into it.
        counts: images per split; sets drawn otherwise are named `ood/NAME`.
        per_class: images per split and class, in label order.
        source: where the images come from.
        licence: as the publisher states it, or `unknown`.
        split: how train, val and test were made, in words.
        sha256: of each Arrow file, by its path inside the folder.
        modes: number of images per Pillow mode as stored (all are read as RGB).
        skipped: files left out with `data.on_bad_image: skip`.
        leaks: exact duplicates between splits.
        warnings: what a person should know before trusting a number made from this set.
        groups: number of groups per split, where images have groups that stay together.
        reading: what the pixels of its files mean.
        profiles: number of sound images per colour profile, by what it calls itself.
        conflicts: images whose bytes stand in another class too.

    The last four are left out of the file where they hold their default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    per_class: dict[str, tuple[int, ...]]
    source: str
    licence: str
    split: str
    sha256: dict[str, str]
    modes: dict[str, int]
    skipped: tuple[Skipped, ...]
    leaks: Leaks
    warnings: tuple[str, ...]
    groups: dict[str, int] = {}
    reading: Reading = STANDARD
    profiles: dict[str, int] = {}
    conflicts: Leaks = NONE

    def require_classes(self, classes: Sequence[str]) -> None:
        """Make sure that a model was made for these classes, in this order.

        Raises:
            DataError: naming what the model has and what the data set has.
        """
        if tuple(classes) != self.classes:
            raise DataError(
                f"the model knows the classes {some(classes, 20)}, the data set {self.title!r} has "
                f"{some(self.classes, 20)}; run `dvc repro train` to train on this data set"
            )


def write_card(folder: Path, card: DatasetCard) -> None:
    """Write the card into the folder of its data set."""
    write_json(folder / CARD_NAME, card.model_dump(mode="json", exclude_defaults=True))


def read_card(folder: Path) -> DatasetCard:
    """Read the card of a packed data set.

    Raises:
        DataError: the folder is not a packed data set, or its card cannot be read.
    """
    path = folder / CARD_NAME
    try:
        return DatasetCard.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder} is not a packed data set: it holds no {CARD_NAME}; run `dvc repro download`"
        ) from None
    except ValidationError as fault:
        raise DataError(
            f"{path} is damaged or of another version: {fault.error_count()} faults, the first at "
            f"{'.'.join(map(str, fault.errors()[0]['loc'])) or 'the top'}; run `dvc repro download` again"
        ) from None


def data_sha256(card: DatasetCard) -> str:
    """Identify the train split, its reading and the classes: what a feature bank is made from.

    Other splits may change without changing it.
    """
    train = {name: digest for name, digest in card.sha256.items() if name.startswith("train")}
    reading = [] if card.reading == STANDARD else [card.reading.model_dump(mode="json")]
    text = json.dumps([sorted(train.items()), card.classes, *reading])
    return hashlib.sha256(text.encode()).hexdigest()
