import contextlib
import shutil

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from drtune.backbones.model_file import load_model
from drtune.base.errors import ConfigError, DataError, WeightsError
from drtune.base.files import read_json, write_json
from drtune.data.packed import PackedSplit, Row, write_split
from drtune.data.transforms import eval_transform
from drtune.evaluation.metrics import HEADLINE
from drtune.evaluation.pictures.style import message
from drtune.params import load
from pipeline import evaluate, paths

CARD = paths.DATASET / "dataset.json"


def edit_card(**change):
    write_json(CARD, read_json(CARD) | change)


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory, recorder):
    """The folder and the run of one evaluation."""
    folder = tmp_path_factory.mktemp("measured") / "project"
    shutil.copytree(finished, folder)
    run = recorder(folder / "running")
    with contextlib.chdir(folder):
        evaluate.main(load(folder / "params.yaml"), run)
    return folder, run


def test_it_measures_the_model_on_test(measured):
    folder, run = measured
    model, spec, _ = load_model(folder / paths.MODEL)
    test, transform = PackedSplit(folder / paths.DATASET / "test.arrow"), eval_transform(spec)
    with torch.no_grad():
        logits = model(torch.stack([transform(test.image(row)) for row in range(len(test))])).logits
    scores = read_json(folder / paths.TEST)["test"]
    right = (logits.argmax(1) == test.labels).double().mean().item()
    assert scores["accuracy"] == pytest.approx(right, abs=1e-6)
    assert scores["nll"] == pytest.approx(cross_entropy(logits, test.labels).item(), abs=1e-5)
    assert scores["n"] == 9
    assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert {f"{name}{end}" for name in HEADLINE for end in ("", "_low", "_high")} < set(scores)
    assert {f"test.{name}" for name in scores} == run.names


def test_it_draws_reports_and_hands_all_to_the_run(measured):
    folder, run = measured
    sizes = {}
    for path in sorted((folder / paths.REPORTS).iterdir()):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert set(sizes) >= {"confusion_matrix.png", "learning_curves.png", "reliability.png"}
    assert all(min(size) > 200 for size in sizes.values())
    assert run.artifacts == [str(paths.REPORTS), str(paths.TEST)]


def test_the_same_model_gives_the_same_bytes(measured, finished_stage, capsys):
    evaluate.main(*finished_stage())
    folder, _ = measured
    for path in [paths.TEST, *sorted(paths.REPORTS.iterdir())]:
        assert path.read_bytes() == (folder / path).read_bytes(), path
    accuracy = read_json(paths.TEST)["test"]["accuracy"]
    assert f"dr_tune: test accuracy {accuracy:.4f} (95 % interval" in capsys.readouterr().out


def test_sets_drawn_otherwise_are_measured_too(finished_stage, monkeypatch):
    monkeypatch.setattr(evaluate, "draw_reports", lambda *_, **__: paths.REPORTS.mkdir())
    made = finished_stage()
    test = PackedSplit(paths.DATASET / "test.arrow")
    rows: list[Row] = [(f"odd/{row}", test.encoded(row), 0) for row in range(4)]
    write_split(paths.DATASET / "ood/odd.arrow", rows)
    counts = read_json(CARD)["counts"]
    edit_card(counts={**counts, "ood/odd": 4})
    evaluate.main(*made)
    metrics = read_json(paths.TEST)
    assert list(metrics) == ["test", "ood/odd"]
    assert metrics["ood/odd"]["n"] == 4
    assert "ood/odd.accuracy" in made.run.names


def test_corruptions_are_measured_and_shown_where_asked_for(finished_stage, measured, capsys, monkeypatch):
    monkeypatch.setattr(
        "drtune.evaluation.pictures.reports.feature_map", lambda *_, **__: message("left out")
    )  # slow
    chosen = {"evaluate.corruptions": ["contrast", "gaussian_noise"], "evaluate.severities": [1, 5]}
    made = finished_stage(chosen)
    evaluate.main(*made)
    metrics = read_json(paths.TEST)
    assert list(metrics) == [
        "test",
        "corrupted",
        "corrupted/contrast",
        "corrupted/contrast/1",
        "corrupted/contrast/5",
        "corrupted/gaussian_noise",
        "corrupted/gaussian_noise/1",
        "corrupted/gaussian_noise/5",
    ]
    cells = [metrics[name]["accuracy"] for name in metrics if name.count("/") == 2]
    assert metrics["corrupted"]["accuracy"] == pytest.approx(sum(cells) / 4, abs=1e-5)
    assert metrics["corrupted/contrast"]["n"] == 9
    assert {"corrupted.accuracy", "corrupted/contrast/5.accuracy_low"} < made.run.names
    for name in ("robustness.png", "corruptions.png"):
        with Image.open(paths.REPORTS / name) as picture:
            assert min(picture.size) > 200
    assert "evaluate corrupted test: 36/36 images" in capsys.readouterr().out
    folder, _ = measured
    plain = read_json(folder / paths.TEST)
    assert plain == {"test": metrics["test"]}
    assert {path.name for path in paths.REPORTS.iterdir()} - {
        path.name for path in (folder / paths.REPORTS).iterdir()
    } == {"robustness.png", "corruptions.png"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"evaluate.corruptions": ["fog", "snow"]},
            r"evaluate.corruptions.1  expected 'gaussian_noise', 'gaussian_blur', 'contrast', 'jpeg' or 'fog'"
            r", got 'snow' \(text\)",
        ),
        (
            {"evaluate.corruptions": "fog"},
            "evaluate.corruptions  expected a list of gaussian_noise or gaussian_blur or contrast or jpeg or "
            r"fog, got 'fog' \(text\)",
        ),
        ({"evaluate.corruptions": ["fog", "fog"]}, "evaluate.corruptions  names fog twice; name each once"),
        (
            {"evaluate.severities": [1, 6]},
            r"evaluate.severities.1  expected 1, 2, 3, 4 or 5, got 6 \(integer",
        ),
        (
            {"evaluate.severities": []},
            r"evaluate.severities  expected a list of 1 or 2 or 3 or 4 or 5, at least one, got \[\]",
        ),
    ],
)
def test_corruptions_that_do_not_exist_are_refused(change, words, stage):
    with pytest.raises(ConfigError, match=words):
        stage(change)


def test_a_model_of_other_classes_is_refused_before_test_is_opened(finished_stage, monkeypatch):
    monkeypatch.setattr(evaluate, "open_split", lambda *_: pytest.fail("the test split was opened"))
    made = finished_stage()
    edit_card(classes=["blue", "green", "yellow"])
    with pytest.raises(DataError, match="knows the classes blue, green, red.*`dvc repro train`"):
        evaluate.main(*made)
    assert not paths.TEST.exists()
    assert not paths.REPORTS.exists()


def test_without_a_model_nothing_is_written(stage):
    with pytest.raises(WeightsError, match=r"models.model.safetensors: no such file"):
        evaluate.main(*stage())
    assert not paths.TEST.exists()
