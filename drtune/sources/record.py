"""A record of catalog/: a published data set that a user can copy and change."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from drtune.base.faults import each_once, plain_names, unknown_value
from drtune.base.settings import Settings
from drtune.base.yaml import read_settings
from drtune.sources.archives import Archive
from drtune.sources.published import LAYOUTS


def known_layout(name: str) -> str:
    """Validate the name of a reader."""
    if name not in LAYOUTS:
        raise PydanticCustomError("sentence", "{text}", {"text": unknown_value(name, list(LAYOUTS))})
    return name


def named_once(classes: int | list[str]) -> int | list[str]:
    """Validate that class names differ and can be written."""
    return classes if isinstance(classes, int) else plain_names(each_once(classes))


class Record(Settings):
    """One published data set.

    Attributes:
        title: for people.
        licence: as stated by the publisher, or `unknown`.
        homepage: where it is described.
        classes: number of classes C, or their C names in label order where the layout itself has none.
        split: the official split that is used, in words.
        layout: name of the reader of the extracted tree, a key of `published.LAYOUTS`.
        files: what is fetched.
    """

    title: str
    licence: str
    homepage: str
    classes: Annotated[Annotated[int, Field(ge=2)] | list[str], AfterValidator(named_once)]
    split: str
    layout: Annotated[str, AfterValidator(known_layout)]
    files: list[Archive]

    def named(self, found: list[str]) -> tuple[str, ...]:
        """The class names, given those that the tree holds.

        Raises:
            ValueError: the tree holds another number of classes.
        """
        expected = self.classes if isinstance(self.classes, int) else len(self.classes)
        if len(found) != expected:
            raise ValueError(f"it holds {len(found)} classes, expected {expected}")
        return tuple(found if isinstance(self.classes, int) else self.classes)


def read_record(path: Path) -> Record:
    """Read and check a record.

    Raises:
        ConfigError: listing every fault.
    """
    return read_settings(path, Record)
