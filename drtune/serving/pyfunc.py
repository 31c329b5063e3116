"""A finished model behind MLflow's `predict`: encoded images in, classes and probabilities out.

MLflow loads this module by name from the code that lies beside a materialized model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas  # type: ignore[import-untyped]
import torch

from drtune.backbones.model_file import load_model
from drtune.base.device import pick_device
from drtune.base.errors import DataError
from drtune.data.images import examined
from drtune.data.settings import Reading
from drtune.data.transforms import eval_transform

BATCH_SIZE = 64


class ImageClassifier:
    """A model and all that must happen to an image before it.

    Args:
        folder: holds model.safetensors and model.json.
        device: as `runtime.device`.
        batch_size: images a step.
    """

    def __init__(self, folder: Path, device: str = "auto", batch_size: int = BATCH_SIZE) -> None:
        self.device, self.batch_size = pick_device(device), batch_size
        model, spec, card = load_model(folder)
        self.model, self.transform = model.to(self.device), eval_transform(spec)
        self.reading: Reading = card["reading"]
        self.classes: list[str] = [str(name) for name in card["classes"]]

    def predict(
        self, model_input: pandas.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pandas.DataFrame:
        """Classify a table whose column `image` holds the bytes of one PNG, JPEG, ... file a row.

        Returns:
            A table: `label`, `probability` of that class, `probabilities` as a mapping class -> probability.

        Raises:
            MlflowException: a row that is no readable image; as such, MLflow's server answers in words alone.
        """
        from mlflow.exceptions import MlflowException

        try:
            shares = self.probabilities(list(model_input["image"]))
        except DataError as fault:
            raise MlflowException.invalid_parameter_value(str(fault)) from None
        best = shares.argmax(1).tolist()
        rows = zip(best, shares.tolist(), strict=True)
        return pandas.DataFrame(
            [(self.classes[k], row[k], dict(zip(self.classes, row, strict=True))) for k, row in rows],
            columns=["label", "probability", "probabilities"],
        )

    def probabilities(self, files: Sequence[bytes]) -> torch.Tensor:
        """[N, C] float32 softmax of the class scores of N encoded images, on the CPU."""
        parts = [torch.empty(0, len(self.classes))]
        for start in range(0, len(files), self.batch_size):
            images = [
                self.image(encoded, start + offset)
                for offset, encoded in enumerate(files[start : start + self.batch_size])
            ]
            batch = torch.stack(images).to(self.device, memory_format=torch.channels_last)
            with torch.inference_mode():
                parts.append(self.model(batch).logits.float().softmax(1).cpu())
        return torch.cat(parts)

    def image(self, encoded: bytes, row: int) -> torch.Tensor:
        """[3, S, S] input of one encoded image."""
        sound, picture = examined(encoded if isinstance(encoded, bytes) else b"", self.reading)
        if picture is None:
            raise DataError(f"row {row}, column image: {sound.problem}; expected the bytes of one image file")
        return self.transform(picture)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> ImageClassifier:
    """MLflow's entry: `model_config` may hold `device` and `batch_size`."""
    return ImageClassifier(Path(path), **dict(model_config or {}))
