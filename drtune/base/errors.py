"""Faults a user can mend.

Every message names the thing, the value found, what is allowed and the remedy. Stage scripts and the
command line print the message alone; anything that is not a `DRTuneError` is a bug and keeps its traceback.
"""

import re

CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u2028-\u202e\u2066-\u2069]")
"""C0, C1, breaks of lines and paragraphs, and the signs that turn the direction of writing."""


def shown(text: object) -> str:
    """Text as it may go to a terminal: of control characters, which could steer it, only the names.

    They stand in names of files, classes, runs and stages, which may be a stranger's.
    """
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


class DRTuneError(Exception):
    """Base of all faults a user can mend."""

    def __str__(self) -> str:
        return shown(super().__str__())


class ConfigError(DRTuneError):
    """A settings file that cannot be accepted; lists every fault at once."""


class DataError(DRTuneError):
    """Images, folders or archives that cannot become a data set."""


class WeightsError(DRTuneError):
    """A checkpoint that cannot be read safely or does not fit the architecture."""


class BankError(DRTuneError):
    """A feature bank that does not belong to the data or the weights at hand."""


class TrainingError(DRTuneError):
    """A training that cannot start or go on, for example a loss that is no longer finite."""


class ShortageError(TrainingError):
    """Work that needs more memory than there is."""


class TrackingError(DRTuneError):
    """A run that cannot be found, restored or compared, or a tracking store that cannot be used."""


class UntrustedError(DRTuneError):
    """Something from outside that reaches for more than its place: a path, an archive, a document."""


class StudyError(DRTuneError):
    """A study that cannot begin, go on or be applied, or a storage that cannot be used."""
