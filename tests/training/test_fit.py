from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.banks.bank import open_bank
from drtune.banks.extract import extract_train
from drtune.base.errors import BankError, DataError, TrainingError
from drtune.base.settings import Params
from drtune.data import loaders
from drtune.data.batch import on_device
from drtune.data.loaders import set_epoch
from drtune.data.packed import PackedSplit, Split, open_split
from drtune.params import SETTINGS, load
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
from drtune.training import fit as module
from drtune.training.fit import fit
from drtune.training.loop import Hooks, Trainer

SOLVED_HEAD = {"train.head_init": "bank", "train.lr_head_unit": "feature"}
pytestmark = pytest.mark.usefixtures("clean_torch")


@dataclass
class Task:
    """A packed data set and the settings file beside it."""

    folder: Path
    write: Any

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    def params(self, change=None) -> Params:
        change = {"data.source": str(self.folder / "images"), **(change or {})}
        return load(self.write(self.folder / "params.yaml", change), SETTINGS)

    def bank(self, params, name="bank") -> Path:
        """Extract the bank of these settings."""
        path = self.folder / f"{name}.safetensors"
        extract_train(path, self.dataset, build_backbone(params[BackboneSettings]), params)
        return path


@pytest.fixture(scope="module")
def make_task(tmp_path_factory, squares, tiny_params):
    def make(seed=0):
        task = Task(tmp_path_factory.mktemp("task"), tiny_params)
        squares(task.folder / "images", seed)
        ingest(task.params()[DataSettings], task.dataset, task.folder / "downloads")
        return task

    return make


@pytest.fixture(scope="module")
def task(make_task):
    return make_task()


@pytest.fixture(scope="module")
def bank(task):
    return task.bank(task.params())


@pytest.fixture
def untrained(monkeypatch):
    """Fail where a training begins."""

    def begin(*_):
        pytest.fail("a training began")

    monkeypatch.setattr(module, "Trainer", begin)


class BegunError(Exception):
    """Carries the trainer out before it starts."""


@pytest.fixture
def trainer_of(monkeypatch):
    """What `fit` hands to the loop, on the device and prepared."""

    def run(trainer):
        raise BegunError(trainer)

    def catch(*arguments):
        monkeypatch.setattr(Trainer, "run", run)
        with pytest.raises(BegunError) as caught:
            fit(*arguments, Hooks())
        return caught.value.args[0]

    return catch


def weights(fitted):
    return fitted.model.state_dict()


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["dr_tune", "finetune", "linear_probe"])
def test_every_method_learns_the_colours(task, bank, method):
    params = task.params({"train.method": method, "train.epochs": 8, "train.lr_head": 0.5})
    fitted = fit(params, task.dataset, bank, Hooks())
    history = fitted.progress.history
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["val_loss"] < 0.7 * history[0]["val_loss"]
    best = fitted.progress.best
    assert best is history[fitted.progress.best_epoch - 1]
    assert best["val_accuracy"] == max(record["val_accuracy"] for record in history) > 0.7
    assert fitted.card.classes == ("blue", "green", "red")
    assert equal(weights(fitted), fitted.progress.best_state)
    moved = not equal(
        fitted.model.encoder.state_dict(),
        build_backbone(params[BackboneSettings]).encoder.state_dict(),
    )
    assert moved == (method != "linear_probe")


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(task, bank):
    first, again = (fit(task.params(), task.dataset, bank, Hooks()) for _ in range(2))
    other = fit(task.params({"train.seed": 1}), task.dataset, bank, Hooks())
    assert equal(weights(first), weights(again))
    assert first.progress.history == again.progress.history
    assert not equal(weights(first), weights(other))
    assert first.progress.history != other.progress.history


def test_validation_images_are_decoded_once_for_all_epochs(task, bank, monkeypatch):
    decoded, plain = [], PackedSplit.image
    monkeypatch.setattr(
        PackedSplit, "image", lambda self, row: (decoded.append(self.path.stem), plain(self, row))[1]
    )
    params = task.params({"train.epochs": 3, "methods.dr_tune.train": {}})
    kept = fit(params, task.dataset, bank, Hooks())
    assert decoded.count("val") == len(open_split(task.dataset, Split.VAL))
    assert decoded.count("train") == 3 * len(open_split(task.dataset, Split.TRAIN))
    monkeypatch.setattr(loaders.KeptBatches.__init__, "__defaults__", (0,))
    anew = fit(params, task.dataset, bank, Hooks())
    assert anew.progress.history == kept.progress.history


def test_the_random_weights_belong_to_the_backbone_s_own_seed(task, bank, trainer_of):
    unconverted = {"methods.dr_tune.train": {}}
    first = trainer_of(task.params(unconverted), task.dataset, bank).model
    other_head = trainer_of(task.params(unconverted | {"train.seed": 1}), task.dataset, bank).model
    assert equal(first.encoder.state_dict(), other_head.encoder.state_dict())
    assert not torch.equal(first.head.weight, other_head.head.weight)


@pytest.mark.usefixtures("untrained")
def test_a_bank_of_other_data_is_refused(task, bank, make_task):
    other = make_task(seed=1)
    with pytest.raises(
        BankError, match=r"does not belong.*`dvc repro extract`[^:]*\n  data_sha256: the bank"
    ):
        fit(other.params(), other.dataset, bank, Hooks())


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone.seed": 1}, ["weights_sha256"]),
        ({"backbone.kwargs": {"channels": [8, 8, 16, 24], "stem_width": 8}}, ["backbone", "weights_sha256"]),
        ({"backbone.mean": [0.4, 0.5, 0.5]}, ["transform"]),
        ({"backbone.crop_fraction": 0.9}, ["transform"]),
        ({"extract.dtype": "float32"}, ["dtype"]),
        ({"extract.views": 2, "extract.seed": 3}, ["transform", "views", "augmented", "augment_seed"]),
    ],
)
def test_a_bank_of_other_settings_is_refused_and_every_difference_named(task, bank, change, named):
    with pytest.raises(BankError, match="does not belong to these settings") as caught:
        fit(task.params(change), task.dataset, bank, Hooks())
    lines = str(caught.value).splitlines()[1:]
    assert [line.strip().split(":")[0] for line in lines] == named


def test_augmentation_belongs_to_a_bank_of_augmented_views_alone(task, bank, trainer_of):
    other = {"augment.rotation": 45.0}
    assert trainer_of(task.params(other), task.dataset, bank).method is not None
    views = {"extract.views": 2}
    augmented = task.bank(task.params(views), "augmented")
    with pytest.raises(BankError, match="transform: the bank"):
        fit(task.params({**views, **other}), task.dataset, augmented, Hooks())


@pytest.mark.usefixtures("untrained")
def test_a_file_that_is_no_bank_is_refused(task, tmp_path):
    broken = tmp_path / "bank.safetensors"
    broken.write_bytes(b"no bank")
    with pytest.raises(BankError, match=r"bank.safetensors is no feature bank"):
        fit(task.params(), task.dataset, broken, Hooks())


def test_dr_tune_needs_a_bank_and_finetuning_none(task, tmp_path, trainer_of):
    absent, steps = tmp_path / "absent.safetensors", []
    hooks = Hooks(on_progress=lambda done, total: steps.append(done))
    with pytest.raises(BankError, match="dr_tune needs the feature bank.*run `dvc repro extract`"):
        fit(task.params(), task.dataset, absent, hooks)
    assert steps == []
    plain = task.params({"train.method": "finetune"})
    assert trainer_of(plain, task.dataset, absent).train is not None


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train.head_init": "bank"}, "head_init: bank"),
        ({"train.lr_head_unit": "feature"}, "lr_head_unit: feature"),
    ],
)
def test_a_start_from_the_bank_needs_one(task, tmp_path, change, named):
    params = task.params({"train.method": "finetune", **change})
    with pytest.raises(BankError, match=f"train.{named} needs the feature bank.*run `dvc repro extract`"):
        fit(params, task.dataset, tmp_path / "absent.safetensors", Hooks())


def test_a_solved_head_is_the_candidate_of_epoch_0(task, bank, trainer_of):
    trainer = trainer_of(task.params(SOLVED_HEAD), task.dataset, bank)
    start = trainer.start
    assert start["epoch"] == 0
    assert set(start) == {"epoch", "train_loss", "val_accuracy", "val_accuracy_se", "val_loss"}
    scores = {f"val_{name}": value for name, value in trainer.validate().items()}
    assert scores == pytest.approx({name: start[name] for name in scores})
    assert start["val_accuracy"] > 0.7
    assert trainer_of(task.params(), task.dataset, bank).start is None


@pytest.mark.parametrize("own", [None, 0.1])
def test_dr_tune_starts_from_its_own_share_of_the_solved_head(task, bank, trainer_of, own):
    whole = trainer_of(task.params(SOLVED_HEAD | {"train.method": "finetune"}), task.dataset, bank)
    change = {
        "train.method": "dr_tune",
        "train.head_scale": 0.5,
        "methods.dr_tune.train": {} if own is None else {"head_scale": own},
    }
    trainer = trainer_of(task.params(SOLVED_HEAD | change), task.dataset, bank)
    scale = 0.5 if own is None else own
    torch.testing.assert_close(trainer.model.head.weight, scale * whole.model.head.weight)
    torch.testing.assert_close(trainer.model.head.bias, scale * whole.model.head.bias)
    assert trainer.start["val_accuracy"] == whole.start["val_accuracy"]
    assert trainer.start["val_loss"] > whole.start["val_loss"]
    assert trainer.start["train_loss"] > whole.start["train_loss"]


@pytest.mark.parametrize(("own", "used"), [(None, "eval"), ("converted", "converted")])
def test_dr_tune_has_a_mode_of_batch_norm_of_its_own(task, bank, trainer_of, own, used):
    change = {
        "train.method": "dr_tune",
        "train.batch_norm": "eval",
        "methods.dr_tune.train": {} if own is None else {"batch_norm": own},
    }
    assert trainer_of(task.params(change), task.dataset, bank).settings.batch_norm == used


@pytest.mark.parametrize("mode", ["train", "converted"])
def test_batches_of_one_image_are_refused_where_batch_norm_would_normalise_by_them(task, bank, mode):
    lone = {"train.batch_size": 1, "train.epochs": 1}
    fault = rf"batch_size 1 makes batches of a single one of the 18 training.*batch_norm: {mode} normalises"
    with pytest.raises(TrainingError, match=fault):
        fit(task.params(lone | {"methods.dr_tune.train.batch_norm": mode}), task.dataset, bank, Hooks())
    params = task.params(lone | {"methods.dr_tune.train.batch_norm": "eval"})
    assert fit(params, task.dataset, bank, Hooks()).progress.epoch == 1
    probe = task.params(lone | {"train.method": "linear_probe", "train.batch_norm": mode})
    assert fit(probe, task.dataset, bank, Hooks()).progress.epoch == 1, "its encoder is in eval mode"


def test_an_encoder_that_training_spoils_is_not_kept(task, bank):
    events = []
    hooks = Hooks(on_event=lambda name, values, step: events.append((name, step, values)))
    rates = {"train.lr_backbone": 30.0, "train.lr_head": 500.0}
    params = task.params({"train.method": "finetune", **SOLVED_HEAD, **rates})
    fitted = fit(params, task.dataset, bank, hooks)
    assert [record["epoch"] for record in fitted.progress.history] == [0, 1, 2]
    assert fitted.progress.best_epoch == 0
    start = build_backbone(params[BackboneSettings]).encoder.state_dict()
    assert equal(fitted.model.encoder.state_dict(), start)
    epochs = [(values["epoch"], step) for name, step, values in events if name == "epoch"]
    assert epochs[0] == (0, 0)
    assert [epoch for epoch, _ in epochs] == [0, 1, 2]


def test_the_head_s_rate_is_per_squared_length_of_the_features(task, bank, trainer_of):
    rows = open_bank(bank).rows(torch.zeros(18, dtype=torch.long), torch.arange(18))
    square = rows.square().sum(1).mean().item()
    relative = trainer_of(
        task.params({"train.lr_head": 0.5, "train.lr_head_unit": "feature"}), task.dataset, bank
    ).settings
    assert relative.lr_head == pytest.approx(0.5 / square, rel=1e-5)
    change = {"train.lr_head": 0.5, "train.lr_head_unit": "absolute"}
    assert trainer_of(task.params(change), task.dataset, bank).settings.lr_head == 0.5


@pytest.mark.usefixtures("untrained")
def test_a_folder_that_is_no_data_set_is_refused(task, bank, tmp_path):
    with pytest.raises(DataError, match="not a packed data set"):
        fit(task.params(), tmp_path, bank, Hooks())


def test_replayed_views_are_the_pixels_that_the_bank_has_seen(task, trainer_of):
    params = task.params({"extract.views": 2, "extract.seed": 5, "train.seed": 9})
    path = task.bank(params, "views")
    encoder = build_backbone(params[BackboneSettings]).encoder.eval()
    train, bank, seen = trainer_of(params, task.dataset, path).train, open_bank(path), {}
    for epoch in range(4):
        set_epoch(train, epoch)
        for batch in train:
            assert batch.view.tolist() == [epoch % 2] * len(batch.labels)
            with torch.no_grad():
                features = encoder(on_device(batch, torch.device("cpu")).images)
            torch.testing.assert_close(bank.rows(batch.view, batch.index), features, rtol=2e-3, atol=2e-3)
            for view, row, feature in zip(batch.view.tolist(), batch.index.tolist(), features, strict=True):
                seen.setdefault((view, row), []).append(feature)
    assert sorted(seen) == [(view, row) for view in range(2) for row in range(bank.num_rows)]
    assert all(len(found) == 2 for found in seen.values())
    gap = torch.stack([seen[0, row][0] - seen[1, row][0] for row in range(bank.num_rows)]).abs().max()
    assert gap > 0.02, "two views of an image look alike, so the comparison above would prove nothing"


def test_without_views_every_epoch_draws_anew(task, bank, trainer_of):
    train = trainer_of(task.params(), task.dataset, bank).train
    images = []
    for epoch in range(2):
        set_epoch(train, epoch)
        rows = {
            int(row): image for batch in train for row, image in zip(batch.index, batch.images, strict=True)
        }
        assert all(batch.view.eq(0).all() for batch in train)
        images.append(torch.stack([rows[row] for row in sorted(rows)]))
    assert not torch.equal(*images)
