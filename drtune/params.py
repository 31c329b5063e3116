"""params.yaml as frozen, closed, typed settings; every fault is listed at once.

No setting that moves a result has a default here: params.yaml is the one place where values live.
The settings of a method stand in the method's own folder and are parsed by the same functions. What a method
replaces of `train` stands in `methods.NAME.train`, and nowhere else.
"""

import copy
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from drtune.backbones.recipe import read_recipe
from drtune.backbones.settings import BackboneSettings
from drtune.banks.settings import ExtractSettings
from drtune.base.errors import ConfigError
from drtune.base.faults import (
    Fault,
    describe,
    faults_of,
    render,
    suggestion,
    unknown_keys,
    unknown_value,
)
from drtune.base.runtime import RuntimeSettings
from drtune.base.settings import Params, Settings
from drtune.base.yaml import ENDINGS, read_yaml
from drtune.data.settings import AugmentSettings
from drtune.evaluation.settings import EvaluateSettings
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings

SECTIONS: Mapping[str, type[Settings]] = {
    "data": DataSettings,
    "backbone": BackboneSettings,
    "augment": AugmentSettings,
    "extract": ExtractSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "runtime": RuntimeSettings,
}
PARAMS = Path("params.yaml")
FOLDER = Path(__file__).parent / "methods"


def settings_of(method: str) -> type[Settings]:
    """The settings type of a method: the one in its folder's settings.py, or none of its own."""
    if not (FOLDER / method / "settings.py").is_file():
        return Settings
    module = import_module(f"drtune.methods.{method}.settings")
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Settings) and kind.__module__ == module.__name__
    )


SETTINGS: Mapping[str, type[Settings]] = {
    folder.name: settings_of(folder.name)
    for folder in sorted(FOLDER.iterdir())
    if (folder / "method.py").is_file()
}
"""Method name -> settings type; a method is a folder with a method.py."""


def load(path: Path, methods: Mapping[str, type[Settings]] = SETTINGS) -> Params:
    """Read and check every section of a settings file; see `parse`."""
    return parse(read_yaml(path), path.name, methods)


def parse(raw: Mapping[str, Any], source: str, methods: Mapping[str, type[Settings]] = SETTINGS) -> Params:
    """Check every section of settings that were read.

    Args:
        raw: section -> key -> value.
        source: how faults name where they come from.
        methods: method name -> settings type; `train.method` must name one of them.

    Raises:
        ConfigError: listing every fault with its dotted name, the value and what is allowed.
    """
    faults: list[Fault] = unknown_keys("", raw, [*SECTIONS, "methods", "study"])
    raw = spelled_as_now(raw, faults)
    parsed: dict[str, Settings] = {}
    for name, section in SECTIONS.items():
        parse_into(parsed, faults, name, section, raw.get(name, MISSING))
    replaced = check_methods(parsed, faults, raw, methods)
    faults += unknown_method(parsed.get("train"), methods)
    faults += cross_faults(parsed, replaced)
    if faults:
        raise ConfigError(render(source, faults))
    return Params(source, raw, parsed, replaced)


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings that were read, with other values under some dotted names."""
    fresh = copy.deepcopy(dict(raw))
    for name, value in values.items():
        *sections, key = name.split(".")
        node = fresh
        for section in sections:
            node = node[section]
        node[key] = value
    return fresh


def spelled_as_now(raw: Mapping[str, Any], faults: list[Fault]) -> Mapping[str, Any]:
    """Spell what releases before catalog/ had as it is spelled now, and append what to write to `faults`."""
    data, backbone = raw.get("data"), raw.get("backbone")
    if isinstance(data, dict) and "source" not in data and ("name" in data or "path" in data):
        before = {key: data[key] for key in ("name", "path") if key in data}
        name, path = before.get("name", "folder"), before.get("path", "images")
        source = str(path) if name == "folder" else f"catalog/{name}.yaml"
        found = ", ".join(f"{key}: {value}" for key, value in before.items())
        faults.append(("data.source", f"is missing; in place of `{found}` write `source: {source}`"))
        data = {key: value for key, value in data.items() if key not in before} | {"source": source}
    if isinstance(backbone, dict) and backbone.get("weights") in ("timm", "none"):
        recipe = "catalog/timm.yaml" if backbone["weights"] == "timm" else "catalog/random.yaml"
        faults.append(
            ("backbone.weights", f"in place of `weights: {backbone['weights']}` write `weights: {recipe}`")
        )
    return {**raw, "data": data} if "data" in raw else raw


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
        faults += faults_of(name, section, error)


def check_methods(
    parsed: dict[str, Settings],
    faults: list[Fault],
    raw: Mapping[str, Any],
    methods: Mapping[str, type[Settings]],
) -> Mapping[str, Any]:
    """Check `methods.*`, and replace what the active method replaces of `train`.

    Only the section of the active method must be there.

    Returns:
        What it replaces, key -> value.
    """
    given = raw.get("methods", MISSING)
    if not isinstance(given, dict):
        faults.append(("methods", "section is missing; known keys: " + ", ".join(methods)))
        return {}
    faults += unknown_keys("methods.", given, list(methods))
    train, replaced = parsed.get("train"), {}
    for name, section in methods.items():
        value = given.get(name, MISSING)
        active = isinstance(train, TrainSettings) and train.method == name
        if value is MISSING and train and not active:
            continue
        own, change = divided(f"methods.{name}", section, {} if value is None else value, faults)
        parse_into(parsed, faults, f"methods.{name}", section, own)
        wrong = train_faults(f"methods.{name}.train", change)
        faults += wrong
        if active and wrong:
            del parsed["train"]  # nothing can be said of settings that are not known
        elif active and train:
            parsed["train"], replaced = TrainSettings.model_validate({**train.model_dump(), **change}), change
    return replaced


def divided(name: str, section: type[Settings], value: Any, faults: list[Fault]) -> tuple[Any, Any]:
    """The section of a method as its own settings and what it replaces of `train`.

    A setting of `train` among its own, as params.yaml had it before, is a fault.
    """
    if not isinstance(value, dict):
        return value, {}
    own, known = {}, [*section.model_fields, "train"]
    for key, setting in value.items():
        if key in section.model_fields:
            own[key] = setting
        elif key in TrainSettings.model_fields:
            remedy = (
                f"leave it out, and train.{key} holds" if setting is None else f"write {name}.train.{key}"
            )
            faults.append((f"{name}.{key}", f"is a setting of train; {remedy}"))
        elif key != "train":
            faults += unknown_keys(f"{name}.", {key: setting}, known)
    return own, {} if value.get("train") is None else value["train"]


def train_faults(name: str, change: Any) -> list[Fault]:
    """Faults of what a method replaces of `train`: any key but `method`, checked as there."""
    if not isinstance(change, dict):
        return [(name, f"expected a section (key: value), got {describe(change)}")]
    faults: list[Fault] = []
    if "method" in change:
        faults.append((f"{name}.method", "cannot be replaced: train.method says whose section this is"))
    try:
        TrainSettings.model_validate(change)
    except ValidationError as error:
        faults += faults_of(name, TrainSettings, error, passed_over="missing")
    return faults


def unknown_method(train: Settings | None, known: Any) -> list[Fault]:
    """The fault of a `train.method` that is not among `known`, a mapping by name."""
    if not isinstance(train, TrainSettings) or not isinstance(known, Mapping) or train.method in known:
        return []
    return [("train.method", unknown_value(train.method, [str(name) for name in known]))]


def missing_paths(params: Params) -> list[Fault]:
    """Faults of the two paths that dvc.yaml depends on; DVC itself only says `No such file or directory`.

    Raises:
        ConfigError: a record or recipe that is there, but has faults.
    """
    from drtune.sources.record import read_record  # every layout, which no other settings need

    source, weights = params[DataSettings].source, params[BackboneSettings].weights
    faults: list[Fault] = []
    if not Path(source).exists():
        what = f"{source!r}: no such folder or record; name the folder that holds your images, or a record"
        faults.append(("data.source", what + suggestion(source, catalogued("layout"))))
    elif source.endswith(ENDINGS):
        read_record(Path(source))
    if not Path(weights).exists():
        what = f"{weights!r}: no such file; name a .safetensors or .pth file, a model's folder, or a recipe"
        faults.append(("backbone.weights", what + suggestion(weights, catalogued("weights"))))
    else:
        read_recipe(weights)
    return faults


def catalogued(key: str) -> list[str]:
    """The files of catalog/ that have this key: `layout` in records of data sets, `weights` in recipes."""
    paths = sorted(Path("catalog").glob("*.yaml"))
    return [str(path) for path in paths if f"\n{key}:" in "\n" + path.read_text()]


def cross_faults(parsed: Mapping[str, Settings], replaced: Mapping[str, Any]) -> list[Fault]:
    """Faults that only show between settings; each settings type may add its own `cross_faults`.

    Those of a setting of `train` that the method replaces are named where it does.
    """
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
            faults += active.cross_faults(train)
        places = {f"train.{key}": f"methods.{train.method}.train.{key}" for key in replaced}
        faults = [(places.get(key, key), text) for key, text in faults]
    return faults
