"""How well a model recognises corrupted images.

Letters: N images of the split, S side of the input in pixels.
"""

from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor, nn

from drtune.backbones.predictions import predict
from drtune.base.device import pick_device
from drtune.base.runtime import RuntimeSettings
from drtune.data.batch import Batch
from drtune.data.loaders import eval_loader
from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec, eval_transform
from drtune.evaluation.corruptions import Pixels, corrupted_loader
from drtune.evaluation.metrics import CHUNK, INTERVAL, resample_counts
from drtune.evaluation.settings import Corruption, EvaluateSettings, Severity

Scores = dict[str, dict[str, float]]
"""Name of a set of images -> name of a measure -> value"""


def set_name(*parts: str | int) -> str:
    """`corrupted` (the mean over all), `corrupted/fog` (over its severities) or `corrupted/fog/3`."""
    return "/".join(["corrupted", *(str(part) for part in parts)])


def measure_corrupted(
    model: nn.Module,
    split: PackedSplit,
    spec: InputSpec,
    settings: EvaluateSettings,
    runtime: RuntimeSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Accuracy on every image of a split under every corruption and severity of `settings`, and its means.

    Args:
        model: a `Classifier`; moved to the device that `runtime` names.
        split: packed images.
        spec: the input the model expects.
        settings: the `evaluate` section; nothing is done where it names no corruption.
        runtime: device and workers.
        progress: called with (images done, images in all), first with (0, images in all); an image counts
            once for each corruption and severity.

    Returns:
        For each `set_name`: `n` (number of images N), `accuracy`, `accuracy_low` and `accuracy_high`, see
        `summarize`. Empty where there is no corruption.
    """
    device, rows = pick_device(runtime.device), len(split)
    cells = list(product(settings.corruptions, settings.severities))
    right: dict[tuple[Corruption, Severity], Tensor] = {}

    def in_images(batches: int, _: int) -> None:
        if progress is not None:
            here = min(batches * settings.batch_size, rows)
            progress(len(right) * rows + here, len(cells) * rows)

    for corruption, severity in cells:
        if not right:
            in_images(0, 0)
        loader = corrupted_loader(
            split,
            spec,
            corruption,
            severity,
            batch_size=settings.batch_size,
            workers=runtime.num_workers,
            seed=settings.seed,
        )
        found = predict(model.to(device), loader, device, in_images)
        right[corruption, severity] = (found.logits.argmax(1) == found.labels).double()
    return summarize(right, settings.bootstrap, settings.seed)


def summarize(right: dict[tuple[Corruption, Severity], Tensor], bootstrap: int, seed: int) -> Scores:
    """Accuracies with 95 % intervals of each set and of the means over them, rounded to 6 decimals.

    A resample draws images, each with all its corruptions; equal seeds draw the same images as
    `metrics.bootstrap_intervals`.

    Args:
        right: for each corruption and severity, 1 where the image is recognised, else 0: [N] float64.
        bootstrap: number of resamples.
        seed: of the resamples.
    """
    if not right:
        return {}
    sets = {set_name(): torch.stack(list(right.values())).mean(0)}
    for corruption in dict.fromkeys(corruption for corruption, _ in right):
        own = {severity: hits for (name, severity), hits in right.items() if name == corruption}
        sets[set_name(corruption)] = torch.stack(list(own.values())).mean(0)
        sets |= {set_name(corruption, severity): hits for severity, hits in own.items()}
    shares = torch.stack(list(sets.values()))
    n, draws = shares.shape[1], torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // n)
    parts = [
        shares @ resample_counts(n, min(step, bootstrap - start), draws) / n
        for start in range(0, bootstrap, step)
    ]
    ends = torch.cat(parts, 1).quantile(torch.tensor(INTERVAL, dtype=torch.float64), dim=1)
    columns = torch.stack([shares.mean(1), *ends], 1).tolist()
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return {
        name: {"n": n} | {key: round(value, 6) for key, value in zip(names, values, strict=True)}
        for name, values in zip(sets, columns, strict=True)
    }


def first_image(
    split: PackedSplit, spec: InputSpec, settings: EvaluateSettings
) -> tuple[Pixels, dict[tuple[Corruption, Severity], Pixels]]:
    """The first image of a split as the model is given it, clean and under each corruption and severity.

    Returns:
        ([S, S, 3] uint8, the same for each corruption and severity).
    """

    def pixels(loader: Iterable[Batch]) -> Pixels:
        return next(iter(loader)).images[0].permute(1, 2, 0).numpy()

    one = {"batch_size": 1, "workers": 0}
    clean = pixels(eval_loader(split, eval_transform(spec), **one))
    cells = product(settings.corruptions, settings.severities)
    return clean, {
        (name, severity): pixels(corrupted_loader(split, spec, name, severity, seed=settings.seed, **one))
        for name, severity in cells
    }
