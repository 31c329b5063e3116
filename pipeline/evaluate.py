"""Stage 4: measure the finished model on the test split. The only code that opens it."""

from drtune.backbones.model_file import load_model
from drtune.backbones.zoo import build_backbone
from drtune.config import BackboneSettings, EvaluateSettings
from drtune.data.card import read_card
from drtune.data.packed import Split, open_split
from drtune.evaluation import measure
from drtune.files import read_json, write_json
from drtune.plots.reports import draw_reports
from pipeline import paths
from pipeline.console import Bar
from pipeline.stage import Stage, run_stage


def main(stage: Stage) -> None:
    """Write `metrics.json` and `reports/`."""
    settings = stage.params[EvaluateSettings]
    stage.run.log_params({"evaluate": settings.model_dump()})
    model, spec, about = load_model(paths.MODEL)
    card = read_card(paths.DATASET)
    card.require_classes(about["classes"])
    test = open_split(paths.DATASET, Split.TEST)
    with Bar("test", "images", settings.batch_size) as bar:
        found, scores = measure(model, test, spec, settings, bar)
    metrics = {"test": scores}
    for name in sorted(name for name in card.counts if name.startswith("ood/")):
        with Bar(name, "images", settings.batch_size) as bar:
            _, metrics[name] = measure(model, open_split(paths.DATASET, name), spec, settings, bar)
    start = build_backbone(stage.params[BackboneSettings]).classifier(len(card.classes))
    before, _ = measure(start, test, spec, settings)
    draw_reports(
        paths.REPORTS,
        found,
        card.classes,
        split="test",
        bins=settings.calibration_bins,
        worst=settings.worst,
        pretrained=before.features,
        image=test.image,
        history=read_json(paths.HISTORY),
        selected_epoch=about["best_epoch"],
    )
    write_json(paths.METRICS, metrics)
    stage.run.log_metrics(
        {f"{name}.{key}": v for name, values in metrics.items() for key, v in values.items()}
    )
    stage.run.log_artifact(paths.REPORTS)
    stage.run.log_artifact(paths.METRICS)
    interval = f"95 % interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
    print(f"{about['method']}: test accuracy {scores['accuracy']:.4f} ({interval}, n = {scores['n']})")


if __name__ == "__main__":
    run_stage("evaluate", main)
