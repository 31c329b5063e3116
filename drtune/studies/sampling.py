"""How the next point of a study is found, and when a trial is given up."""

import hashlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from drtune.studies.domains import Space, points, rounded
from drtune.studies.space import StudySettings

TRIES = 200
"""Random points that are tried for one that the study does not have yet, before all are gone through."""
GP_TRIALS = 100
SEEDS = 2**32


def seed_of(study_seed: int, number: int) -> int:
    """Seed for the trial with this number: no two trials of a study, in whatever worker, have the same."""
    digest = hashlib.sha256(str(study_seed).encode()).digest()
    return (int.from_bytes(digest[:4], "big") + number) % SEEDS


def build_sampler(settings: StudySettings, space: Space, trials: int, number: int) -> BaseSampler:
    """The sampler for the trial with this number, of so many in all.

    `auto` is a Gaussian process for at most 100 trials of numbers alone, else TPE.
    """
    seed, name = seed_of(settings.seed, number), settings.sampler
    if name == "auto":
        words = any(isinstance(domain, CategoricalDistribution) for domain in space.values())
        name = "tpe" if words or trials > GP_TRIALS else "gp"
    if name == "gp":
        first = settings.startup_trials
        return GPSampler(seed=seed, n_startup_trials=first, warn_independent_sampling=False)
    if name == "tpe":
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials)
    return RandomSampler(seed)


def build_pruner(settings: StudySettings) -> BasePruner:
    """The pruner that the settings name."""
    if settings.pruner == "none":
        return NopPruner()
    return MedianPruner(settings.startup_trials, settings.warmup_epochs)


def next_point(study: optuna.Study, settings: StudySettings, space: Space, trials: int) -> dict[str, Any]:
    """The point of the next trial of a study that has so many in all.

    What the sampler proposes, rounded. Where a trial has it already, a random one; in a space that is nearly
    used up, the first that is left.
    """
    known = study.get_trials(deepcopy=False)
    taken = {as_key(given(trial)) for trial in known}
    copy = optuna.create_study(directions=study.directions)  # in memory, where a proposal begins no trial
    copy.add_trials([trial for trial in known if trial.state != TrialState.WAITING])
    random = RandomSampler(seed_of(settings.seed, len(known)))
    for sampler in (build_sampler(settings, space, trials, len(known)), *[random] * TRIES):
        copy.sampler = sampler
        point = rounded(space, copy.ask(dict(space)).params)
        if as_key(point) not in taken:
            return point
    return next((free for free in points(space) if as_key(free) not in taken), point)


def given(trial: FrozenTrial) -> dict[str, Any]:
    """The point of a trial; of one whose process died while it was given, as far as it is known."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def as_key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A point as a value that can be looked up."""
    return tuple(sorted(params.items()))
