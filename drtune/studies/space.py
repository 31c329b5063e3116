"""`study` in params.yaml: what a study varies and between which bounds, and how its trials are judged.

Every end and every choice is put into the settings once, before the first trial, so that a fault shows then.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

from drtune.banks.settings import ExtractSettings
from drtune.base.errors import ConfigError
from drtune.base.faults import Fault, describe, render, suggestion
from drtune.base.settings import Count, Params, Settings, Whole
from drtune.data.settings import AugmentSettings
from drtune.params import MISSING, SETTINGS, parse, parse_into, with_values
from drtune.studies.domains import Domain, Space, checked_choices, checked_range, count_of, ends, holds
from drtune.training.settings import TrainSettings

NOT_VARIED = {
    "train.method": "a study is about one method; begin another with another train.method",
    "train.seed": "`study.seeds` repeats each trial with seeds of its own",
}
CORNERS = 256
"""Corners of a space that are tried, at random where there are more: one in eight shows a fault of three
settings with two ends each, so that none stays hidden."""


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

    @property
    def maximize(self) -> tuple[bool, ...]:
        """Whether more is better, for each objective."""
        return (self.direction == "maximize", False)[: len(self.objectives)]


def read_study(params: Params) -> tuple[StudySettings, dict[str, Domain]]:
    """Parse and check the `study` section of settings; a ConfigError lists all faults."""
    parsed: dict[str, Any] = {}
    faults: list[Fault] = []
    space: dict[str, Domain] = {}
    parse_into(parsed, faults, "study", StudySettings, params.raw.get("study", MISSING))
    if not faults:
        study = parsed["study"]
        faults += settings_faults(study)
        for name, entry in study.space.items():
            try:
                if (domain := domain_of(params, name, entry)) is not None:
                    space[name] = domain
            except ValueError as fault:
                faults.append((f"study.space.{name}", str(fault)))
        if not space and not faults:
            what = f"names no setting of train or methods.{params[TrainSettings].method}"
            faults.append(("study.space", f"{what}; give at least one: {{low: …, high: …}} or a list"))
    if faults := faults or list(space_faults(params, study, space)):
        raise ConfigError(render(params.source, faults))
    return study, space


def settings_faults(study: StudySettings) -> Iterator[Fault]:
    """Faults between the settings of a study."""
    wanted = "minimize" if study.metric == "val_loss" else "maximize"
    if study.direction != wanted:
        yield "study.direction", f"{study.direction} {study.metric} seeks the worst model; set {wanted}"
    if study.cost and study.pruner != "none":
        what = f"{study.pruner} needs one objective, study.cost adds a second; set one to none/null"
        yield "study.pruner", what


def domain_of(params: Params, name: str, entry: Any) -> Domain | None:
    """The domain that an entry of `study.space` describes; None for a setting of a method that is not active.

    A ValueError says in words what is wrong with it.
    """
    field = field_of(params, name)
    if field is None:
        return None
    if isinstance(entry, list):
        return checked_choices(entry)
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"}:
        shape = "{low: …, high: …, log: true} or {low: …, high: …, step: …} or a list of choices"
        raise ValueError(f"expected {shape}, got {describe(entry)}")
    if not (kinds := number_kinds(field)):
        raise ValueError(f"takes no numbers; give a list of choices, got {describe(entry)}")
    return checked_range(entry, whole="number" not in kinds)


def field_of(params: Params, name: str) -> dict[str, Any] | None:
    """The JSON schema of the setting that a dotted name means; None for one of a method that is not active.

    A ValueError says why no study varies it.
    """
    method = params[TrainSettings].method
    own, replacing = f"methods.{method}", f"methods.{method}.train"
    sections: dict[str, type[Settings]] = {"train": TrainSettings, own: SETTINGS[method]}
    sections |= {"augment": AugmentSettings, replacing: TrainSettings}
    waiting = {f"methods.{other}": kind for other, kind in SETTINGS.items() if other != method}
    waiting |= {f"{other}.train": TrainSettings for other in waiting}
    section, _, field = name.rpartition(".")
    if (plain := name.removeprefix(f"{own}.")) in NOT_VARIED:
        raise ValueError(f"cannot be varied: {NOT_VARIED[plain]}")
    if section == "augment" and (views := params[ExtractSettings].views):
        raise ValueError(f"the bank holds augmented rows, extract.views is {views}; set that to 0")
    if not (kind := sections.get(section) or waiting.get(section)):
        raise ValueError(
            f"a study varies settings of the train stage alone; allowed: train.*, {own}.*, augment.*"
        )
    if field not in kind.model_fields:
        raise ValueError("unknown setting" + suggestion(field, list(kind.model_fields)))
    if section == "train" and field in params.replaced:
        raise ValueError(f"is replaced by {replacing}.{field}; vary that one")
    if section == replacing and field not in params.replaced:
        raise ValueError(f"is not in params.yaml; vary train.{field}, or write it there first")
    return dict(kind.model_json_schema()["properties"][field]) if section in sections else None


def number_kinds(field: Mapping[str, Any]) -> set[str]:
    """Which of `integer` and `number` a setting takes, by its JSON schema."""
    return {option.get("type") for option in field.get("anyOf", [field])} & {"integer", "number"}


def space_faults(params: Params, study: StudySettings, space: Space) -> Iterator[Fault]:
    """Faults of domains against the settings: their ends, alone and together, and what params.yaml says."""
    own, right = own_values(params, space), []
    for name, domain in space.items():
        problems = [problem for value in ends(domain) if (problem := problem_with(params, {name: value}))]
        if problems:
            yield f"study.space.{name}", problems[0]
            continue
        right.append(name)
        if not holds(domain, own[name]):
            what = f"params.yaml's own value {own[name]!r} is not among its values"
            remedy = "the first trial is params.yaml as it stands; change the domain"
            yield f"study.space.{name}", f"{what}; {remedy}"
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


def faults_together(params: Params, space: Space, names: Sequence[str]) -> Iterator[Fault]:
    """Faults of several settings at the ends of their domains, each of which alone is right."""
    sides = [ends(space[name]) for name in names]
    corners: Iterator[Sequence[Any]] = itertools.product(*sides)
    if math.prod(map(len, sides)) > CORNERS:
        draws = random.Random(0)
        corners = ([draws.choice(side) for side in sides] for _ in range(CORNERS))
    found: list[dict[str, Any]] = []
    for corner in corners:
        point = dict(zip(names, corner, strict=True))
        if any(known.items() <= point.items() for known in found) or not problem_with(params, point):
            continue
        for name in names:  # keep what the fault needs
            rest = {other: value for other, value in point.items() if other != name}
            point = rest if problem_with(params, rest) else point
        if not any(known.keys() == point.keys() for known in found):
            (*others, (name, value)), problem = point.items(), problem_with(params, point)
            together = " and ".join(f"{other} {another!r}" for other, another in others)
            yield f"study.space.{name}", f"{value!r} together with {together}: {problem}"
        found.append(point)


def problem_with(params: Params, values: Mapping[str, Any]) -> str:
    """What the settings say of these values, in one line; empty if they are right."""
    try:
        resolved(params, values)
    except ConfigError as error:
        return "; ".join(" ".join(line.split()) for line in str(error).split("\n")[1:])
    return ""


def own_values(params: Params, space: Mapping[str, Any]) -> dict[str, Any]:
    """What params.yaml says of each name in a space."""
    return {name: reduce(lambda node, part: node[part], name.split("."), params.raw) for name in space}


def resolved(params: Params, values: Mapping[str, Any]) -> Params:
    """The settings of a trial; a ConfigError says why they are not accepted."""
    return parse(with_values(params.raw, values), params.source)
