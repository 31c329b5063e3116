"""params.yaml as frozen, closed, typed settings; every fault is listed at once.

No setting that moves a result has a default here: params.yaml is the one place where values live.
The settings of a method stand in the method's own file and are parsed by the same functions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from drtune.errors import ConfigError
from drtune.faults import Fault, describe, each_once, explain, render, unknown_keys, unknown_value

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
ThreeNumbers = Annotated[list[float], Field(min_length=3, max_length=3)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2)]
Corruption = Literal["gaussian_noise", "gaussian_blur", "contrast", "jpeg", "fog"]
Severity = Literal[1, 2, 3, 4, 5]
BatchNormMode = Literal["train", "eval", "converted"]
Monitor = Literal["accuracy_1se", "accuracy", "loss", "last"]


class Settings(BaseModel):
    """Base of every section: unknown keys are faults, values are frozen, text is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSettings(Settings):
    """`data`: which images, and how they are split."""

    name: str
    path: str
    shots: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Whole
    on_bad_image: Literal["error", "skip"]


class BackboneSettings(Settings):
    """`backbone`: which network, its weights, and the input it expects (null: as its weights record)."""

    name: str
    weights: str
    kwargs: dict[str, Any] | None
    image_size: Annotated[int, Field(ge=8, le=1024)] | None
    mean: ThreeNumbers | None
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None
    seed: Whole


class AugmentSettings(Settings):
    """`augment`: how a training image is varied."""

    crop_area: Range
    crop_ratio: Range
    horizontal_flip: Fraction
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    color_jitter: Fraction
    blur: NonNegative


class ExtractSettings(Settings):
    """`extract`: the bank of pretrained features."""

    views: Whole
    dtype: Literal["float16", "bfloat16", "float32"]
    batch_size: Count
    workers: Whole
    device: Literal["auto", "cpu"]
    seed: Whole


class TrainSettings(Settings):
    """`train`: the loop every method runs in."""

    method: str
    seed: Whole
    epochs: Count
    batch_size: Count
    drop_last: bool
    optimizer: Literal["sgd", "adamw"]
    lr_backbone: Positive
    lr_head: Positive
    lr_head_unit: Literal["absolute", "feature"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NonNegative
    decay_norm_and_bias: bool
    schedule: Literal["cosine", "linear", "constant"]
    schedule_every: Literal["step", "epoch"]
    warmup_epochs: NonNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Positive | None
    batch_norm: BatchNormMode
    head_init: Literal["normal", "zero", "bank"]
    head_scale: Positive
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    wise_ft: Annotated[float, Field(gt=0, lt=1)] | None
    monitor: Monitor
    precision: Literal["no", "fp16", "bf16"]
    deterministic: bool
    workers: Whole
    device: Literal["auto", "cpu"]


class EvaluateSettings(Settings):
    """`evaluate`: measures on the sealed test split."""

    batch_size: Count
    workers: Whole
    device: Literal["auto", "cpu"]
    bootstrap: Annotated[int, Field(ge=100)]
    calibration_bins: Annotated[int, Field(ge=2)]
    worst: Whole
    corruptions: Annotated[list[Corruption], AfterValidator(each_once)]
    severities: Annotated[list[Severity], Field(min_length=1), AfterValidator(each_once)]
    seed: Whole


SECTIONS: Mapping[str, type[Settings]] = {
    "data": DataSettings,
    "backbone": BackboneSettings,
    "augment": AugmentSettings,
    "extract": ExtractSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
}
S = TypeVar("S", bound=Settings)


class Params:
    """A settings file as read: raw values plus the parsed sections asked for."""

    def __init__(self, source: str, raw: Mapping[str, Any], parsed: Mapping[str, Settings]) -> None:
        self.source = source
        self.raw = raw
        self._parsed = parsed

    def __getitem__(self, section: type[S]) -> S:
        """Return the parsed section of this type."""
        return next(value for value in self._parsed.values() if isinstance(value, section))

    def method(self, name: str) -> Settings:
        """Return the parsed settings of a method."""
        return self._parsed[f"methods.{name}"]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (so that `1e-3` is a number).

    Raises:
        ConfigError: no such file, a syntax error, a key given twice, or not a mapping.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None
    except YAMLError as fault:
        raise ConfigError(f"{path.name}: not valid YAML\n{fault}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: expected sections (key: value), got {describe(raw)}")
    return raw


def load(path: Path, methods: Mapping[str, type[Settings]] | None = None) -> Params:
    """Read and check every section of a settings file; see `parse`."""
    return parse(read_yaml(path), path.name, methods)


def parse(raw: Mapping[str, Any], source: str, methods: Mapping[str, type[Settings]] | None = None) -> Params:
    """Check every section of settings that were read.

    Args:
        raw: section -> key -> value.
        source: how faults name where they come from.
        methods: method name -> settings type. Where given, the `methods` section is checked as well, and
            `train.method` must name one of them; else it must be a key of that section.

    Raises:
        ConfigError: listing every fault with its dotted name, the value and what is allowed.
    """
    faults: list[Fault] = unknown_keys("", raw, [*SECTIONS, "methods", "study"])
    parsed: dict[str, Settings] = {}
    for name, section in SECTIONS.items():
        parse_into(parsed, faults, name, section, raw.get(name, MISSING))
    if methods is not None:
        check_methods(parsed, faults, raw, methods)
        replace_by_method(parsed)
    faults += unknown_method(parsed.get("train"), raw.get("methods") if methods is None else methods)
    faults += cross_faults(parsed)
    if faults:
        raise ConfigError(render(source, faults))
    return Params(source, raw, parsed)


MISSING = object()


def parse_into(
    parsed: dict[str, Settings], faults: list[Fault], name: str, section: type[Settings], value: Any
) -> None:
    """Parse one section into `parsed`, or append what is wrong with it to `faults`."""
    if value is MISSING:
        faults.append((name, "section is missing; known keys: " + ", ".join(section.model_fields)))
        return
    if not isinstance(value, dict):
        faults.append((name, f"expected a section (key: value), got {describe(value)}"))
        return
    try:
        parsed[name] = section.model_validate(value)
    except ValidationError as error:
        faults += [explain(name, section, fault) for fault in error.errors()]


def check_methods(
    parsed: dict[str, Settings],
    faults: list[Fault],
    raw: Mapping[str, Any],
    methods: Mapping[str, type[Settings]],
) -> None:
    """Check `methods.*`; only the section of the active method must be there."""
    given = raw.get("methods", MISSING)
    if not isinstance(given, dict):
        faults.append(("methods", "section is missing; known keys: " + ", ".join(methods)))
        return
    faults += unknown_keys("methods.", given, list(methods))
    train = parsed.get("train")
    for name, section in methods.items():
        value = given.get(name, MISSING)
        if value is not MISSING or not isinstance(train, TrainSettings) or train.method == name:
            parse_into(parsed, faults, f"methods.{name}", section, {} if value is None else value)


def replace_by_method(parsed: dict[str, Settings]) -> None:
    """Let the fields that the active method's settings share with `train` replace those of `train`."""
    train = parsed.get("train")
    if not isinstance(train, TrainSettings) or f"methods.{train.method}" not in parsed:
        return
    own = parsed[f"methods.{train.method}"].model_dump(include=set(TrainSettings.model_fields))
    parsed["train"] = train.model_copy(update={key: value for key, value in own.items() if value is not None})


def unknown_method(train: Settings | None, known: Any) -> list[Fault]:
    """The fault of a `train.method` that is not among `known`, a mapping by name."""
    if not isinstance(train, TrainSettings) or not isinstance(known, Mapping) or train.method in known:
        return []
    return [("train.method", unknown_value(train.method, [str(name) for name in known]))]


def missing_paths(params: Params) -> list[Fault]:
    """Faults of the two paths that dvc.yaml depends on; DVC itself only says `No such file or directory`."""
    data, backbone = params[DataSettings], params[BackboneSettings]
    faults: list[Fault] = []
    if not Path(data.path).exists():
        what = f"{data.path!r}: no such folder; name the folder that holds your images"
        faults.append(("data.path", what + " (DVC wants one for the other sources, too: images)"))
    if backbone.weights not in ("timm", "none") and not Path(backbone.weights).is_file():
        what = f"{backbone.weights!r}: no such file; give a .safetensors or .pth file"
        faults.append(("backbone.weights", what + ", timm (the weights timm publishes) or none"))
    return faults


def cross_faults(parsed: Mapping[str, Settings]) -> list[Fault]:
    """Faults that only show between settings; each settings type may add its own `cross_faults`."""
    faults: list[Fault] = []
    data, train, augment = parsed.get("data"), parsed.get("train"), parsed.get("augment")
    if isinstance(data, DataSettings) and data.val_fraction + data.test_fraction >= 1:
        total = f"{data.val_fraction:g} + data.test_fraction {data.test_fraction:g}"
        faults.append(("data.val_fraction", f"{total} leave nothing to train on; their sum must be below 1"))
    if isinstance(augment, AugmentSettings):
        for key, (low, high) in (("crop_area", augment.crop_area), ("crop_ratio", augment.crop_ratio)):
            if low > high:
                faults.append((f"augment.{key}", f"lower end {low:g} exceeds upper end {high:g}"))
        if (largest := augment.crop_area[1]) > 1:
            faults.append(("augment.crop_area", f"upper end {largest:g} exceeds 1, the whole image"))
    if isinstance(train, TrainSettings):
        if train.optimizer == "sgd" and train.nesterov and train.momentum == 0:
            faults.append(("train.nesterov", "true needs train.momentum > 0, got 0; set one of the two"))
        if train.wise_ft is not None and train.head_init != "bank":
            text = f"{train.wise_ft:g} mixes in the start, a head of train.head_init: {train.head_init}"
            faults.append(("train.wise_ft", f"{text}; set that to bank, or train.wise_ft to null"))
        active = parsed.get(f"methods.{train.method}")
        if active is not None and hasattr(active, "cross_faults"):
            faults += [(f"{key}", text) for key, text in active.cross_faults(train)]
    return faults
