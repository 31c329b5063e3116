"""Parts c and d: extraction against a plain timm forward, an epoch from JPEG files against timm's loader."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import timm.data
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.gpu.scene import Scene, scratch, write_images
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import Backbone, build_backbone
from drtune.banks.bank import BankHeader
from drtune.banks.extract import extract_bank
from drtune.base.numeric import set_numeric_state
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.data.batch import Batch
from drtune.data.loaders import set_epoch, train_loader
from drtune.data.packed import Split, open_split
from drtune.data.settings import AugmentSettings
from drtune.data.transforms import train_transform
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from drtune.training.contract import load_method
from drtune.training.loop import Hooks, Trainer, set_mode
from drtune.training.settings import TrainSettings

EXTRACTION_BATCH = 256


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def extraction(scene: Scene) -> dict[str, Any]:
    """Images/s of `extract_bank` and of timm's model alone, on the same batches in memory, in turns."""
    name, kwargs, size = scene.networks[0]
    set_numeric_state(0, torch.get_num_threads())
    backbone = scene.backbone(name, kwargs, size)
    encoder = backbone.encoder.to(scene.device)
    batches = list(ready_batches(scene, size))
    count = sum(len(batch.index) for batch in batches)
    labels, ids = torch.zeros(count, dtype=torch.int64), [str(row) for row in range(count)]
    header = BankHeader("", "", "", "", views=1, augmented=False, augment_seed=0, dtype="float16")
    speeds: dict[str, list[float]] = {"ours": [], "timm": []}
    with scratch() as folder:
        for _ in range(scene.rounds + 1):
            path = Path(folder) / "bank.safetensors"
            place = backbone.feature_dim, scene.device
            speeds["ours"].append(extract_bank(path, encoder, [batches], header, labels, ids, *place))
            speeds["timm"].append(count / forward_seconds(encoder, batches, scene.device))
            if len(speeds["ours"]) > 2 and time.monotonic() > scene.until:
                break
    ours, plain = (median(speeds[who][1:]) for who in ("ours", "timm"))
    found = {"network": name, "ours_images_per_second": ours, "timm_images_per_second": plain}
    return found | {"ours_of_timm": ours / plain, "rounds": len(speeds["ours"]) - 1}


def ready_batches(scene: Scene, size: int) -> Iterator[Batch]:
    """Batches of random images, pinned where there is a GPU."""
    random = torch.Generator().manual_seed(0)
    for start in range(0, scene.images, EXTRACTION_BATCH):
        index = torch.arange(start, min(start + EXTRACTION_BATCH, scene.images))
        images = torch.randn(len(index), 3, size, size, generator=random)
        images = images.pin_memory() if scene.device.type == "cuda" else images
        yield Batch(images, torch.zeros_like(index), index, torch.zeros_like(index))


@torch.inference_mode()
def forward_seconds(encoder: nn.Module, batches: Iterable[Batch], device: torch.device) -> float:
    """What a script would do: forward each batch, keep the features on the CPU."""
    encoder.eval()
    synchronize(device)
    start = time.perf_counter()
    kept = [encoder(batch.images.to(device, non_blocking=True)).cpu() for batch in batches]
    assert len(kept) > 0
    synchronize(device)
    return time.perf_counter() - start


def epoch(scene: Scene) -> dict[str, Any]:
    """Images/s of an epoch of plain fine-tuning from JPEG files, with our loader and with timm's.

    `step_images_per_second` is that of the same steps on one batch that lies on the device.
    """
    name, kwargs, size = scene.networks[0]
    given = {"backbone__name": name, "backbone__kwargs": kwargs, "backbone__image_size": size}
    with scratch() as folder:
        files = write_images(Path(folder) / "images", scene.images, scene.side)
        params = scene.settings(
            **given,
            backbone__interpolation="bilinear",
            data__source=str(files),
            data__shots=None,
            train__method="finetune",
            train__batch_size=scene.batch,
            train__precision="bf16" if scene.device.type == "cuda" else "no",
            augment__rotation=0.0,
            augment__shift=0.0,
            augment__horizontal_flip=0.5,
        )
        ingest(params[DataSettings], Path(folder) / "dataset", Path(folder))
        set_numeric_state(0, torch.get_num_threads(), deterministic=True)
        backbone = build_backbone(params[BackboneSettings])
        step = one_step(params, backbone, scene)
        found: dict[str, Any] = {"network": name, "workers": params[RuntimeSettings].num_workers}
        found["step_images_per_second"] = bare_speed(step, scene, size)
        loaders = {
            "ours": our_loader(params, backbone, Path(folder) / "dataset"),
            "timm": timm_loader(params, backbone, files, scene),
        }
        for who, loader in loaders.items():
            found[who] = timed_epoch(step, loader, scene)
            of_step = found[who]["images_per_second"] / found["step_images_per_second"]
            found[who]["of_step"] = round(of_step, 4)
            scene.save(found)
    return found


def one_step(params: Params, backbone: Backbone, scene: Scene) -> Any:
    """`Trainer.step` of plain fine-tuning."""
    train = params[TrainSettings]
    model = backbone.classifier(3)
    method = load_method("finetune")(params.method("finetune"), train)
    empty: Any = DataLoader([0], batch_size=None)
    trainer = Trainer(model, method, None, empty, empty, train, Hooks(), device=scene.device)
    set_mode(model, method.trains, train.batch_norm)
    return trainer.step


def bare_speed(step: Any, scene: Scene, size: int) -> float:
    """Images/s of steps on one batch."""
    index = torch.arange(scene.batch)
    images = torch.randn(scene.batch, 3, size, size).to(scene.device)
    batch = Batch(images, (index % 3).to(scene.device), index, torch.zeros_like(index))
    for _ in range(3):
        step(batch)
    synchronize(scene.device)
    start, steps = time.perf_counter(), 20
    for _ in range(steps):
        step(batch)
    synchronize(scene.device)
    return steps * scene.batch / (time.perf_counter() - start)


def our_loader(params: Params, backbone: Backbone, dataset: Path) -> Any:
    """The training's own loader."""
    train, runtime = params[TrainSettings], params[RuntimeSettings]
    transform = train_transform(backbone.spec, params[AugmentSettings])
    return train_loader(
        open_split(dataset, Split.TRAIN),
        transform,
        batch_size=train.batch_size,
        drop_last=True,
        seed=0,
        workers=runtime.num_workers,
        replay=None,
    )


def timm_loader(params: Params, backbone: Backbone, files: Path, scene: Scene) -> Any:
    """timm's, with the same crop and flip, the same files, batches and workers."""
    augment = params[AugmentSettings]
    return timm.data.create_loader(
        timm.data.ImageDataset(str(files)),
        input_size=(3, backbone.spec.size, backbone.spec.size),
        batch_size=scene.batch,
        is_training=True,
        use_prefetcher=scene.device.type == "cuda",
        scale=tuple(augment.crop_area),
        ratio=tuple(augment.crop_ratio),
        hflip=augment.horizontal_flip,
        color_jitter=None,
        auto_augment=None,
        interpolation=backbone.spec.interpolation,
        mean=backbone.spec.mean,
        std=backbone.spec.std,
        num_workers=params[RuntimeSettings].num_workers,
        persistent_workers=params[RuntimeSettings].num_workers > 0,
        device=scene.device,
    )


def timed_epoch(step: Any, loader: Any, scene: Scene) -> dict[str, float]:
    """Images/s of the second epoch, and the share of its time that was spent waiting for a batch."""
    result: dict[str, float] = {}
    for number in range(2):
        if hasattr(loader.batch_sampler if hasattr(loader, "batch_sampler") else loader, "set_epoch"):
            set_epoch(loader, number)
        synchronize(scene.device)
        start, waited, images, batches = time.perf_counter(), 0.0, 0, iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            whole = batch if isinstance(batch, Batch) else as_batch(*batch)
            step(whole)
            images += len(whole.labels)
        synchronize(scene.device)
        seconds = time.perf_counter() - start
        result = {"images_per_second": images / seconds, "waiting_share": round(waited / seconds, 4)}
    return result


def as_batch(images: Tensor, labels: Tensor) -> Batch:
    """A batch of timm's in our form."""
    index = torch.arange(len(labels))
    return Batch(images, labels, index, torch.zeros_like(index))
