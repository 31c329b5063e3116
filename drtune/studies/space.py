"""`study` in params.yaml: what a study varies and between which bounds, and how its trials are judged.

Every end and every choice is put into the settings once, before the first trial, so that a fault shows then.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from drtune.banks.settings import ExtractSettings
from drtune.base.errors import ConfigError
from drtune.base.faults import Fault, describe, faults_of, render, suggestion
from drtune.base.settings import Count, Params, Settings, Whole
from drtune.data.settings import AugmentSettings
from drtune.params import SETTINGS, parse, with_values
from drtune.studies.domains import Domain, Space, Value, checked_choices, checked_interval, count_of
from drtune.training.settings import TrainSettings

NOT_VARIED = {
    "train.method": "a study is about one method; begin another with another train.method",
    "train.seed": "`study.seeds` repeats each trial with seeds of its own",
}


class StudySettings(Settings):
    """`study`: see params.yaml for the meaning of each key."""

    metric: Literal["val_accuracy", "val_loss"]
    direction: Literal["maximize", "minimize"]
    cost: Literal["seconds"] | None
    trials: Count
    seeds: Count
    sampler: Literal["auto", "gp", "tpe", "random"]
    pruner: Literal["median", "none"]
    warmup_epochs: Whole
    startup_trials: Count
    seed: Whole
    space: dict[str, Any]

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of what is judged: the metric, and the cost where it counts too."""
        return (self.metric, self.cost) if self.cost else (self.metric,)


def read_study(params: Params) -> tuple[StudySettings, dict[str, Domain]]:
    """Parse and check the `study` section of settings that were read with every method's.

    Raises:
        ConfigError: no section, or faults in it, all of them listed.
    """
    raw = params.raw.get("study")
    if not isinstance(raw, dict):
        known = ", ".join(StudySettings.model_fields)
        what = "section is missing" if raw is None else f"expected a section, got {describe(raw)}"
        raise ConfigError(render(params.source, [("study", f"{what}; known keys: {known}")]))
    try:
        study = StudySettings.model_validate(raw)
    except ValidationError as error:
        faults = faults_of("study", StudySettings, error)
        raise ConfigError(render(params.source, faults)) from None
    space: dict[str, Domain] = {}
    faults = list(settings_faults(study))
    for name, entry in study.space.items():
        try:
            if not of_another_method(params, name):
                space[name] = domain_of(params, name, entry)
        except ValueError as fault:
            faults.append((f"study.space.{name}", str(fault)))
    if not space and not faults:
        what = f"names no setting of train or methods.{params[TrainSettings].method}"
        faults.append(("study.space", f"{what}; give at least one: {{low: …, high: …}} or a list"))
    faults = faults or list(space_faults(params, study, space))
    if faults:
        raise ConfigError(render(params.source, faults))
    return study, space


def settings_faults(study: StudySettings) -> Iterator[Fault]:
    """Faults between the settings of a study."""
    wanted = "minimize" if study.metric == "val_loss" else "maximize"
    if study.direction != wanted:
        yield "study.direction", f"{study.direction} {study.metric} seeks the worst model; set {wanted}"
    if study.cost and study.pruner != "none":
        yield (
            "study.pruner",
            f"{study.pruner} needs one objective, study.cost adds a second; set one to none/null",
        )


def of_another_method(params: Params, name: str) -> bool:
    """Whether a name is a setting of a method that is not active: it waits until that one is.

    Raises:
        ValueError: that method has no such setting.
    """
    section, _, field = name.rpartition(".")
    others = SETTINGS.keys() - {params[TrainSettings].method}
    sections = {name: kind for method in others for name, kind in sections_of(method).items()}
    if section in sections:
        require_field(sections[section], field)
    return section in sections


def sections_of(method: str) -> dict[str, type[Settings]]:
    """The sections of a method: its own settings, and what it replaces of `train`."""
    return {f"methods.{method}": SETTINGS[method], f"methods.{method}.train": TrainSettings}


def require_field(section: type[Settings], field: str) -> None:
    """Make sure that a section has a field.

    Raises:
        ValueError: it has not.
    """
    if field not in section.model_fields:
        raise ValueError("unknown setting" + suggestion(field, list(section.model_fields)))


def domain_of(params: Params, name: str, entry: Any) -> Domain:
    """The domain that an entry of `study.space` describes.

    Raises:
        ValueError: in words, what is wrong with it.
    """
    section, field = field_of(params, name)
    kinds = number_kinds(section, field)
    if isinstance(entry, list):
        return checked_choices(entry)
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"}:
        shape = "{low: …, high: …, log: true} or {low: …, high: …, step: …} or a list of choices"
        raise ValueError(f"expected {shape}, got {describe(entry)}")
    if not kinds:
        raise ValueError(f"takes no numbers; give a list of choices, got {describe(entry)}")
    for key in ("low", "high", "step"):
        value = entry.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key}: expected a number, got {describe(value)}")
    return checked_interval(entry, whole="number" not in kinds)


def field_of(params: Params, name: str) -> tuple[type[Settings], str]:
    """The settings type and the field that a dotted name means.

    Raises:
        ValueError: it is no setting that moves the active method's training and nothing before it.
    """
    method = params[TrainSettings].method
    sections: dict[str, type[Settings]] = {
        "train": TrainSettings,
        **sections_of(method),
        "augment": AugmentSettings,
    }
    own = f"methods.{method}.train"
    section, _, field = name.rpartition(".")
    if (plain := name.removeprefix(f"methods.{method}.")) in NOT_VARIED:
        raise ValueError(f"cannot be varied: {NOT_VARIED[plain]}")
    if section == "augment" and (views := params[ExtractSettings].views):
        raise ValueError(f"the bank holds augmented rows, extract.views is {views}; set that to 0")
    if section not in sections:
        allowed = ", ".join(f"{known}.*" for known in sections if known != own)
        raise ValueError(f"a study varies settings of the train stage alone; allowed: {allowed}")
    require_field(sections[section], field)
    if section == "train" and field in params.replaced:
        raise ValueError(f"is replaced by {own}.{field}; vary that one")
    if section == own and field not in params.replaced:
        raise ValueError(f"is not in params.yaml; vary train.{field}, or write it there first")
    return sections[section], field


def number_kinds(section: type[Settings], field: str) -> set[str]:
    """Which of `integer` and `number` a field takes."""
    schema = section.model_json_schema()["properties"][field]
    return {option.get("type") for option in schema.get("anyOf", [schema])} & {"integer", "number"}


def space_faults(params: Params, study: StudySettings, space: Space) -> Iterator[Fault]:
    """Faults of domains against the settings: their ends, alone and together, and what params.yaml says."""
    own, right = own_values(params, space), []
    for name, domain in space.items():
        key = f"study.space.{name}"
        problems = [problem for value in domain.ends if (problem := problem_with(params, {name: value}))]
        if problems:
            yield key, problems[0]
            continue
        right.append(name)
        if len({moved(resolved(params, {name: value})) for value in domain.ends}) < len(domain.ends):
            yield key, f"two of its values are trained alike: {', '.join(map(repr, domain.ends))}"
        if own[name] not in domain:
            first = "the first trial is params.yaml as it stands; change the domain"
            yield key, f"params.yaml's own value {own[name]!r} is not among its values; {first}"
    yield from faults_together(params, space, right)
    if study.seeds > 1 and "seed" in params.replaced:
        name = f"methods.{params[TrainSettings].method}.train.seed"
        yield "study.seeds", f"{study.seeds} trainings a trial would all take {name}; leave that out"
    if problem := too_many(space, study.trials):
        yield "study.trials", problem


def too_many(space: Space, trials: int) -> str:
    """What is wrong with a number of trials, each of which needs a point of its own; empty if nothing."""
    if (count := count_of(space)) >= trials:
        return ""
    remedy = "ask for fewer, or widen study.space"
    return f"{trials} trials, but the space has only {count} different points; {remedy}"


def faults_together(params: Params, space: Space, right: Sequence[str]) -> Iterator[Fault]:
    """Faults of two or three settings at the ends of their domains, each of which alone is right."""
    found: list[set[str]] = []
    groups = [*itertools.combinations(right, 2), *itertools.combinations(right, 3)]
    for names in groups:
        if any(fewer <= set(names) for fewer in found):
            continue
        for values in itertools.product(*(space[name].ends for name in names)):
            point = dict(zip(names, values, strict=True))
            if problem := problem_with(params, point):
                name, value = point.popitem()
                others = " and ".join(f"{other} {another!r}" for other, another in point.items())
                found.append(set(names))
                yield f"study.space.{name}", f"{value!r} together with {others}: {problem}"
                break


def problem_with(params: Params, values: Mapping[str, Value]) -> str:
    """What the settings say of these values, in one line; empty if they are right."""
    try:
        resolved(params, values)
    except ConfigError as error:
        return "; ".join(" ".join(line.split()) for line in str(error).split("\n")[1:])
    return ""


def own_values(params: Params, space: Space) -> dict[str, Any]:
    """What params.yaml says of each name in a space."""
    found = {}
    for name in space:
        node: Any = params.raw
        for part in name.split("."):
            node = node[part]
        found[name] = node
    return found


def resolved(params: Params, values: Mapping[str, Any]) -> Params:
    """The settings of a trial.

    Raises:
        ConfigError: they are not accepted.
    """
    return parse(with_values(params.raw, values), params.source)


def moved(params: Params) -> str:
    """All that a trial of a study can change, as text to compare."""
    train = params[TrainSettings]
    return repr((train, params.method(train.method), params[AugmentSettings]))
