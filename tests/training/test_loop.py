import copy
import itertools
import math

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from drtune.backbones.classifier import Classifier
from drtune.backbones.projection import projection_head
from drtune.base.errors import TrainingError
from drtune.base.seeding import generator
from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.methods.finetune.method import FineTune
from drtune.training.checkpoint import read_checkpoint
from drtune.training.contract import Loss, Method
from drtune.training.loop import Hooks, Trainer, set_mode
from drtune.training.settings import TrainSettings

BASE = {
    "method": "finetune", "seed": 0, "epochs": 4, "batch_size": 8, "drop_last": False, "optimizer": "sgd",
    "lr_backbone": 0.05, "lr_head": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0,
    "decay_norm_and_bias": True, "schedule": "cosine", "schedule_every": "step", "warmup_epochs": 0.0,
    "label_smoothing": 0.0, "clip_norm": None, "batch_norm": "train", "head_init": "normal",
    "head_scale": 1.0, "lr_head_unit": "absolute", "ema_decay": None, "wise_ft": None, "monitor": "accuracy",
    "precision": "no", "deterministic": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def settings(**change):
    return TrainSettings(**{**BASE, **change})


class Shuffled:
    """Batches of 8 of 24 rows in an order that is a function of the epoch."""

    batch_size, drop_last, epoch = 8, False, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.randperm(24, generator=generator(0, self.epoch)).tolist()
        return (order[i : i + 8] for i in range(0, 24, 8))

    def __len__(self):
        return 3


def collate(rows):
    images, labels, index = zip(*rows, strict=True)
    return Batch(
        torch.stack(images),
        torch.tensor(labels),
        torch.tensor(index),
        torch.zeros(len(rows), dtype=torch.long),
    )


def rows():
    noise = torch.randn(24, 3, 4, 4, generator=generator(1))
    return [(noise[i] + 2.0 * (i % 3 - 1), i % 3, i) for i in range(24)]


def loaders():
    train = DataLoader(rows(), batch_sampler=Shuffled(), collate_fn=collate)
    return train, DataLoader(rows(), batch_size=12, collate_fn=collate)


def classifier(dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(24, 8)
    )
    return Classifier(encoder, 8, 3)


def trainer(model, hooks=None, method=None, **change):
    s = settings(**change)
    return Trainer(model, method or FineTune(Settings(), s), None, *loaders(), s, hooks or Hooks())


class Projecting(Method):
    """Has all that a method may have: a trained layer, a buffer, a frozen parameter, something to keep."""

    def prepare(self, model, bank, batches):
        self.layer = projection_head((8, 3), generator(0, "projection"))
        self.register_buffer("seen", torch.zeros(1))
        self.still = nn.Parameter(torch.ones(2), requires_grad=False)
        self.steps = []

    def loss(self, model, batch):
        features, logits = model(batch.images)
        self.steps.append(self.step)
        pull = self.layer(features).square().mean()
        terms = {"cross_entropy": self.cross_entropy(logits, batch.labels), "pull": pull}
        return Loss(terms, {"pull": 0.01 * self.step}, kept=features.detach())

    def after_step(self, batch, kept):
        self.seen += kept.abs().mean()


def test_it_learns_and_reports_every_epoch_and_step():
    events, seen = [], []
    hooks = Hooks(on_event=lambda *e: events.append(e), on_progress=lambda *p: seen.append(p))
    done = trainer(classifier(), hooks).run()
    assert done.history[-1]["val_accuracy"] > 0.8
    assert done.history[-1]["train_loss"] < 0.7 * done.history[0]["train_loss"]
    assert [r["epoch"] for r in done.history] == [1, 2, 3, 4]
    assert set(done.history[0]) == {
        "epoch", "train_loss", "loss/cross_entropy", "lr_backbone", "lr_head",
        "val_accuracy", "val_accuracy_se", "val_loss",
    }  # fmt: skip
    steps = [(values, step) for name, values, step in events if name == "step"]
    assert [step for _, step in steps] == list(range(1, 13))
    assert steps[0][0]["lr_head"] == 0.1
    assert steps[6][0]["lr_head"] == pytest.approx(0.05)
    assert [step for name, _, step in events if name == "epoch"] == [3, 6, 9, 12]
    assert seen == [(i, 12) for i in range(13)]


def test_epoch_loss_is_the_mean_over_its_steps():
    events = []
    done = trainer(classifier(), Hooks(on_event=lambda *e: events.append(e)), epochs=1).run()
    losses = [values["loss"] for name, values, _ in events if name == "step"]
    assert done.history[0]["train_loss"] == pytest.approx(sum(losses) / 3, abs=1e-6)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_same_seed_twice_is_bit_identical(ema):
    results = []
    for _ in range(2):
        model = classifier(dropout=0.3)
        torch.manual_seed(3)
        results.append(trainer(model, ema_decay=ema).run())
    assert results[0].history == results[1].history
    for a, b in zip(results[0].best_state.values(), results[1].best_state.values(), strict=True):
        assert torch.equal(a, b)


VARIANTS = [
    {},
    {"ema_decay": 0.9},
    {"wise_ft": 0.5},
    {"ema_decay": 0.9, "wise_ft": 0.5},
    {"batch_norm": "converted"},
]


@pytest.mark.parametrize(("kill_at", "variant"), list(itertools.product([4, 6, 7, 10], VARIANTS)))
def test_a_killed_training_goes_on_bit_for_bit(tmp_path, kill_at, variant):
    def start(hooks):
        model = classifier(dropout=0.3)
        torch.manual_seed(3)
        return trainer(model, hooks, Projecting(Settings(), settings()), **variant), model

    whole, whole_model = start(Hooks())
    expected = whole.run()

    class KilledError(Exception):
        pass

    def kill(done, _):
        if done == kill_at:
            raise KilledError

    half, _ = start(Hooks(on_progress=kill, checkpoints=tmp_path, checkpoint_seconds=0))
    with pytest.raises(KilledError):
        half.run()
    rest, rest_model = start(Hooks(checkpoints=tmp_path))
    torch.manual_seed(99)
    got = rest.run()
    assert got.history == expected.history
    assert got.best_epoch == expected.best_epoch
    assert all(
        torch.equal(a, b) for a, b in zip(got.best_state.values(), expected.best_state.values(), strict=True)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(rest_model.state_dict().values(), whole_model.state_dict().values(), strict=True)
    )
    for name, value in whole.method.state_dict().items():
        assert torch.equal(rest.method.state_dict()[name], value), name
    assert whole.method.steps == list(range(12))
    assert rest.method.steps == list(range((kill_at - 1) // 3 * 3, 12)), "from the last whole epoch on"


def test_what_a_method_may_train_is_trained_and_nothing_else_of_it():
    t = trainer(classifier(), method=Projecting(Settings(), settings()))
    start = copy.deepcopy(t.method.state_dict())
    record = t.run().history[-1]
    moved = {name for name, value in t.method.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"layer.0.weight", "layer.0.bias", "seen"}
    assert record["lr_method"] == record["lr_head"]


def test_terms_are_reported_without_their_weights_and_the_weights_beside_them():
    events = []
    hooks = Hooks(on_event=lambda *event: events.append(event))
    done = trainer(classifier(), hooks, Projecting(Settings(), settings())).run()
    steps = [values for name, values, _ in events if name == "step"]
    for number, values in enumerate(steps):
        total = values["loss/cross_entropy"] + 0.01 * number * values["loss/pull"]
        assert values["loss"] == pytest.approx(total, rel=1e-5)
    assert [record["weight/pull"] for record in done.history] == [0.02, 0.05, 0.08, 0.11], "of the last step"
    assert "weight/cross_entropy" not in done.history[0]
    mean = sum(values["loss/pull"] for values in steps[:3]) / 3
    assert done.history[0]["loss/pull"] == pytest.approx(mean, abs=1e-6)


def test_a_finished_training_is_not_run_again(tmp_path):
    first = trainer(classifier(), Hooks(checkpoints=tmp_path)).run()

    seen = []
    hooks = Hooks(on_progress=lambda *p: seen.append(p), checkpoints=tmp_path)
    again = trainer(classifier(), hooks).run()
    assert seen == [(12, 12)], "no step was run"
    assert again.history == first.history
    assert list(again.best_state) == list(first.best_state)


def test_a_method_that_trains_the_head_leaves_the_encoder_and_its_statistics_alone():
    model = classifier()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    s = settings(epochs=2)
    trainer(model, method=Probe(Settings(), s), epochs=2).run()
    assert all(torch.equal(before[k], v) for k, v in model.encoder.state_dict().items())
    assert model.head.weight.abs().max() > 0.01


class Probe(FineTune):
    trains = "head"


def test_batch_norm_mode_decides_whether_statistics_move():
    model = classifier()
    set_mode(model, "all", "eval")
    assert model.encoder.training
    assert not model.encoder[1].training
    set_mode(model, "all", "train")
    assert model.encoder[1].training
    set_mode(model, "all", "eval")
    set_mode(model, "all", "converted")
    assert model.encoder[1].training
    set_mode(model, "head", "train")
    assert not model.encoder.training
    assert model.head.training


def test_converted_batch_norm_starts_as_the_same_function_with_the_statistics_of_the_images():
    model, passes = classifier(), []
    model.encoder[1].running_mean.uniform_(-1, 1)
    model.encoder[1].running_var.uniform_(0.5, 2)
    images = torch.stack([image for image, _, _ in rows()])
    scores = model.eval()(images).logits
    trainer(model, Hooks(on_prepare=lambda *p: passes.append(p)), batch_norm="converted")
    assert passes == [(1, 3), (2, 3), (3, 3)]
    expected = model.encoder[0](images).mean(dim=(0, 2, 3))
    assert torch.allclose(model.encoder[1].running_mean, expected, atol=1e-5)
    assert torch.allclose(model.eval()(images).logits, scores, atol=1e-5)
    assert torch.allclose(model.train()(images).logits, scores, atol=1e-2)


def test_no_image_is_read_where_nothing_is_to_be_converted():
    frozen, plain = classifier(), Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), 8, 3)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    unread = Hooks(on_prepare=lambda *_: pytest.fail("an image was read"))
    s = settings(batch_norm="converted")
    trainer(frozen, unread, Probe(Settings(), s), batch_norm="converted")
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert trainer(plain, unread, batch_norm="converted").run().epoch == 4


@pytest.mark.parametrize(
    ("monitor", "scores", "best"),
    [
        ("accuracy", [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.1)], 3),
        ("loss", [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.1)], 4),
        ("accuracy", [(0.5, 1.0), (0.5, 1.0)], 1),
        ("last", [(0.9, 0.1), (0.7, 0.2), (0.2, 3.0)], 3),
        ("accuracy_1se", [(0.5, 1.0), (0.7, 2.0), (0.66, 2.5), (0.6, 0.1)], 3),
    ],
)
def test_the_weights_of_the_epoch_that_validation_chooses_are_kept(monitor, scores, best):
    t = trainer(classifier(), monitor=monitor)
    for epoch, (accuracy, loss) in enumerate(scores, 1):
        nn.init.constant_(t.model.head.bias, epoch)
        record = {"epoch": epoch, "val_accuracy": accuracy, "val_accuracy_se": 0.05, "val_loss": loss}
        t.keep(record)
    assert t.progress.best_epoch == best
    assert t.progress.best_state["head.bias"].tolist() == [best] * 3
    assert t.progress.best["val_accuracy"] == scores[best - 1][0]


class Diverging(Method):
    """Goes wrong in the eighth step, the second of the third epoch."""

    def loss(self, model, batch):
        _, logits = model(batch.images)
        return Loss({"sum": logits.sum() * 0, "bad": logits.sum() * (math.inf if self.step == 7 else 0)})


@pytest.mark.parametrize(("precision", "first"), [("no", ""), ("fp16", r"set train\.precision: bf16 .*, ")])
def test_a_loss_that_is_not_finite_names_step_term_and_remedy(precision, first, tmp_path):
    hooks = Hooks(checkpoints=tmp_path, checkpoint_seconds=0.0)
    running = trainer(classifier(), hooks, Diverging(Settings(), settings()))
    running.settings = settings(precision=precision)
    where = rf"no longer finite at step 8 of 12 \(bad\); {first}lower train\.lr_backbone \(0\.05\)"
    with pytest.raises(TrainingError, match=where):
        running.run()
    left = read_checkpoint(tmp_path)
    assert left["progress"].epoch == 2, "the last good one stays"
    assert all(value.isfinite().all() for value in left["parts"]["model"].values())


def test_terms_that_are_finite_and_whose_sum_is_not_are_told_apart():
    class Large(Method):
        def loss(self, model, batch):
            return Loss({"sum": model(batch.images).logits.sum() * 0 + 3e38, "more": torch.tensor(3e38)})

    with pytest.raises(TrainingError, match=r"at step 1 of 12 \(their sum\); lower"):
        trainer(classifier(), method=Large(Settings(), settings())).run()


def test_clipping_bounds_the_gradient():
    free, tight = (trainer(classifier(), epochs=1, clip_norm=c) for c in (None, 1e-6))
    free.run(), tight.run()
    start = classifier().head.weight
    assert (tight.model.head.weight - start).abs().max() < 1e-5 < (free.model.head.weight - start).abs().max()


def test_bfloat16_runs_and_stays_near_float32():
    exact = trainer(classifier(), epochs=2).run().history
    AcceleratorState._reset_state(True)
    rough = trainer(classifier(), epochs=2, precision="bf16").run().history
    for a, b in zip(exact, rough, strict=True):
        assert a["train_loss"] != b["train_loss"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.1)


def test_averaged_weights_are_the_ones_that_are_kept():
    t = trainer(classifier(), ema_decay=0.99, epochs=1)
    done = t.run()
    assert torch.equal(done.best_state["head.weight"], t.ema.module.head.weight)
    assert not torch.equal(done.best_state["head.weight"], t.model.head.weight)


def test_wise_ft_keeps_the_weights_between_start_and_end_and_trains_as_without():
    model = classifier()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    t = trainer(model, wise_ft=0.75, monitor="last")
    done = t.run()
    plain = trainer(classifier(), monitor="last").run()
    for name, end in plain.best_state.items():
        assert torch.equal(t.model.state_dict()[name], end), "training itself goes on as it would"
        if end.is_floating_point():
            torch.testing.assert_close(done.best_state[name], 0.25 * start[name] + 0.75 * end)
        else:
            assert torch.equal(done.best_state[name], end)
    assert [r["train_loss"] for r in done.history] == [r["train_loss"] for r in plain.history]
    assert done.history[-1]["val_loss"] != plain.history[-1]["val_loss"], "what is kept is what is validated"


def test_wise_ft_leaves_a_start_that_is_kept_as_it_is():
    record = {"epoch": 0, "train_loss": 0.0, "val_accuracy": 1.0, "val_loss": -1.0}
    model, s = classifier(), settings(wise_ft=0.5)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    method = FineTune(Settings(), s)
    done = Trainer(model, method, None, *loaders(), s, Hooks(), start=record).run()
    assert done.best_epoch == 0
    assert all(torch.equal(value, start[name]) for name, value in done.best_state.items())


class Doubling(FineTune):
    """Changes the model in `prepare`, and hangs a list on it that grows with every pass."""

    def prepare(self, model, bank, batches):
        self.seen = []
        model.encoder[0].register_forward_hook(lambda *_: self.seen.append(1))
        with torch.no_grad():
            model.encoder[5].weight.mul_(2)


def test_wise_ft_starts_from_the_prepared_model_and_leaves_its_hooks_alone():
    s = settings(wise_ft=0.5, monitor="last", epochs=1)
    method, model = Doubling(Settings(), s), classifier()
    doubled = 2 * model.encoder[5].weight.detach().clone()
    t = Trainer(model, method, None, *loaders(), s, Hooks())
    done = t.run()
    expected = (doubled + model.encoder[5].weight) / 2
    torch.testing.assert_close(done.best_state["encoder.5.weight"], expected)
    assert len(method.seen) == 3, "validation of the ensemble does not pass through the trained model"
