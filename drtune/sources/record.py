"""A record of catalog/: a published data set that a user can copy and change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from drtune.base.faults import each_once, plain_names, unknown_value
from drtune.base.settings import Settings
from drtune.base.yaml import read_settings
from drtune.sources.archives import Archive
from drtune.sources.hub import names_a_commit
from drtune.sources.parquet import parquet
from drtune.sources.published import LAYOUTS
from drtune.sources.shards import Columns, Reader, known_parts
from drtune.sources.webdataset import webdataset

SHARDED: Mapping[str, Reader] = {reader.__name__: reader for reader in (parquet, webdataset)}
"""Layouts that stay packed: name -> reader of one shard."""


def known_layout(name: str) -> str:
    """Validate the name of a reader."""
    known = [*LAYOUTS, *SHARDED]
    if name not in known:
        raise PydanticCustomError("sentence", "{text}", {"text": unknown_value(name, known)})
    return name


def one_origin(files: list[Archive], info: ValidationInfo) -> list[Archive]:
    """Validate that the files come from somewhere, and from one place."""
    hub, layout = info.data.get("hub"), info.data.get("layout")
    fault = ""
    if files and hub:
        fault = "are given beside hub; give one of the two"
    elif not files and hub == "" and layout not in ("digits", None):
        fault = "are missing; list them, or give hub: OWNER/NAME@COMMIT"
    elif hub and layout not in ("folders", *SHARDED):
        fault = f"of layout {layout} are archives: list them in place of hub"
    if fault:
        raise PydanticCustomError("sentence", "{text}", {"text": fault})
    return files


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
        layout: name of the reader of the files, a key of `published.LAYOUTS` or of `SHARDED`.
        columns: where shards have image and label.
        parts: name of a part (train, val, test, ood/NAME) -> pattern of its shards.
        hub: a data set of the Hugging Face hub, `OWNER/NAME@COMMIT`, in place of files.
        files: what is fetched.
    """

    title: str
    licence: str
    homepage: str
    classes: Annotated[Annotated[int, Field(ge=2)] | list[str], AfterValidator(named_once)]
    split: str
    layout: Annotated[str, AfterValidator(known_layout)]
    columns: Columns = Columns()
    parts: Annotated[dict[str, str], AfterValidator(known_parts)] = Field({}, validate_default=True)
    hub: Annotated[str, AfterValidator(names_a_commit)] = ""
    files: Annotated[list[Archive], AfterValidator(one_origin)] = Field([], validate_default=True)

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
