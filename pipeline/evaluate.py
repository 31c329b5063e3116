"""Stage 4: measure the finished model on the test split. The only code that opens it."""

from pathlib import Path

from drtune.backbones.classifier import Classifier
from drtune.backbones.model_file import load_model
from drtune.backbones.predictions import Predictions
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.files import read_json, write_json
from drtune.data.card import read_card
from drtune.data.packed import PackedSplit, Split, open_split
from drtune.data.transforms import InputSpec
from drtune.evaluation.measure import measure
from drtune.evaluation.pictures.reports import draw_reports
from drtune.evaluation.pictures.robustness import corruption_figures
from drtune.evaluation.robustness import measure_corrupted
from drtune.evaluation.settings import EvaluateSettings
from drtune.runs.console import Bar
from drtune.runs.naming import flat
from drtune.runs.runner import Stage, run_stage
from pipeline import paths


def main(stage: Stage) -> None:
    """Write `metrics.json` and `reports/`."""
    settings = stage.params[EvaluateSettings]
    stage.run.log_params({"evaluate": settings.model_dump()})
    model, spec, about = load_model(paths.MODEL)
    card = read_card(paths.DATASET)
    card.require_classes(about["classes"])
    with Bar("evaluate test", "images") as bar:
        test, found, scores = measure_test(model, paths.DATASET, spec, settings, bar)
    metrics = {"test": scores}
    for name in sorted(name for name in card.counts if name.startswith("ood/")):
        with Bar(f"evaluate {name}", "images") as bar:
            _, metrics[name] = measure(model, open_split(paths.DATASET, name), spec, settings, bar)
    with Bar("evaluate corrupted test", "images") as bar:
        metrics |= measure_corrupted(model, test, spec, settings, bar)
    start = build_backbone(stage.params[BackboneSettings]).classifier(len(card.classes))
    before, _ = measure(start, test, spec, settings)
    draw_reports(
        paths.REPORTS,
        found,
        card.classes,
        settings,
        split="test",
        pretrained=before.features,
        image=test.image,
        history=read_json(paths.HISTORY),
        selected_epoch=about["best_epoch"],
        further=corruption_figures(metrics, test, spec, settings, name="test"),
    )
    write_json(paths.METRICS, metrics)
    stage.run.log_metrics(flat(metrics))
    for path in (paths.REPORTS, paths.METRICS):
        stage.run.log_artifact(path)
    interval = f"95 % interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
    print(f"{about['method']}: test accuracy {scores['accuracy']:.4f} ({interval}, n = {scores['n']})")


def measure_test(
    model: Classifier, dataset: Path, spec: InputSpec, settings: EvaluateSettings, bar: Bar | None = None
) -> tuple[PackedSplit, Predictions, dict[str, float]]:
    """Open the sealed test split of a packed data set and measure a finished model on it."""
    test = open_split(dataset, Split.TEST)
    return test, *measure(model, test, spec, settings, bar)


if __name__ == "__main__":
    run_stage("evaluate", main)
