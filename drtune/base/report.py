"""What a stage says while it works. The runner listens; nobody has to."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Progress of one piece of work."""

    note: str
    """Words shown beside the progress."""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Show that `done` of `total` are done, maybe of another piece; a total of 0 is unknown."""


class Report(Protocol):
    """The calls that a stage may make of whoever runs it."""

    @property
    def checkpoints(self) -> Path | None:
        """Folder for the running state of this stage; None keeps none."""

    @property
    def downloads(self) -> Path:
        """Folder for fetched archives."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings; nested ones are named with dots."""

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at one step."""

    def log_artifact(self, path: Path) -> None:
        """A file or folder as it is now."""

    def progress(self, label: str, unit: str, scale: float = 1.0) -> AbstractContextManager[Progress]:
        """Begin a piece of work: `label` says what is done; `unit` is counted, `scale` of them a count."""

    def say(self, line: str) -> None:
        """One line for the user."""


class NoProgress:
    """Shows nothing."""

    note = ""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Take a count and do nothing."""


class NullReport:
    """Listens to nothing: a stage runs without a runner.

    Args:
        folder: where checkpoints and downloads may go.
    """

    def __init__(self, folder: Path) -> None:
        self.checkpoints = folder / "checkpoints"
        self.downloads = folder / "downloads"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path) -> None:
        """Do nothing."""

    def progress(self, label: str, unit: str, scale: float = 1.0) -> AbstractContextManager[Progress]:
        """Show nothing."""
        return nullcontext(NoProgress())

    def say(self, line: str) -> None:
        """Do nothing."""
