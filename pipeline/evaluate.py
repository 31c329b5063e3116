"""Stage 4: measure the finished model on the test split. The only code that opens it."""

from pathlib import Path

from drtune.backbones.classifier import Classifier
from drtune.backbones.model_file import load_model
from drtune.backbones.predictions import Predictions
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone
from drtune.base.files import read_json, write_json
from drtune.base.numeric import set_numeric_state
from drtune.base.report import Progress, Report
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params
from drtune.data.card import read_card
from drtune.data.packed import PackedSplit, Split, open_split
from drtune.data.transforms import InputSpec
from drtune.evaluation.measure import measure
from drtune.evaluation.pictures.reports import draw_reports
from drtune.evaluation.pictures.robustness import corruption_figures
from drtune.evaluation.robustness import measure_corrupted
from drtune.evaluation.settings import EvaluateSettings
from pipeline import paths


def main(params: Params, report: Report) -> None:
    """Write `metrics/test.json` and `reports/`."""
    settings, runtime = params[EvaluateSettings], params[RuntimeSettings]
    set_numeric_state(settings.seed, runtime.num_threads)
    report.log_params({"evaluate": settings.model_dump()})
    model, spec, about = load_model(paths.MODEL)
    card = read_card(paths.DATASET)
    card.require_classes(about["classes"])
    with report.progress("evaluate test", "images") as progress:
        test, found, scores = measure_test(model, paths.DATASET, spec, settings, runtime, progress)
    metrics = {"test": scores}
    for name in sorted(name for name in card.counts if name.startswith("ood/")):
        with report.progress(f"evaluate {name}", "images") as progress:
            split = open_split(paths.DATASET, name)
            _, metrics[name] = measure(model, split, spec, settings, runtime, progress)
    with report.progress("evaluate corrupted test", "images") as progress:
        metrics |= measure_corrupted(model, test, spec, settings, runtime, progress)
    start = build_backbone(params[BackboneSettings]).classifier(len(card.classes))
    before, _ = measure(start, test, spec, settings, runtime)
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
    write_json(paths.TEST, metrics)
    report.log_metrics(
        {f"{name}.{key}": value for name, part in metrics.items() for key, value in part.items()}
    )
    for path in (paths.REPORTS, paths.TEST):
        report.log_artifact(path)
    interval = f"95 % interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
    report.say(f"{about['method']}: test accuracy {scores['accuracy']:.4f} ({interval}, n = {scores['n']})")


def measure_test(
    model: Classifier,
    dataset: Path,
    spec: InputSpec,
    settings: EvaluateSettings,
    runtime: RuntimeSettings,
    progress: Progress | None = None,
) -> tuple[PackedSplit, Predictions, dict[str, float]]:
    """Open the sealed test split of a packed data set and measure a finished model on it."""
    test = open_split(dataset, Split.TEST)
    return test, *measure(model, test, spec, settings, runtime, progress)
