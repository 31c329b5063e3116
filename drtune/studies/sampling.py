"""How the next point of a study is found, and when a trial is given up."""

import hashlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from drtune.studies.domains import Choices, Domain, Space, points, rounded
from drtune.studies.space import StudySettings
from drtune.studies.standing import given

TRIES = 200
"""Random points that are tried for one that the study does not have yet, before all are gone through."""
GP_TRIALS = 100
SEEDS = 2**32


def distribution_of(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's terms."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), domain.log, int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, domain.log, domain.step)


def seed_of(study_seed: int, number: int) -> int:
    """Seed for the trial with this number: no two trials of a study, in whatever worker, have the same."""
    digest = hashlib.sha256(str(study_seed).encode()).digest()
    return (int.from_bytes(digest[:4], "big") + number) % SEEDS


def sampler_name(settings: StudySettings, space: Space, trials: int) -> str:
    """`auto` resolved: a Gaussian process for at most 100 trials of numbers alone, else TPE."""
    if settings.sampler != "auto":
        return settings.sampler
    numbers = not any(isinstance(domain, Choices) for domain in space.values())
    return "gp" if numbers and trials <= GP_TRIALS else "tpe"


def build_sampler(settings: StudySettings, space: Space, trials: int, number: int) -> BaseSampler:
    """The sampler for the trial with this number, of so many in all."""
    seed = seed_of(settings.seed, number)
    name = sampler_name(settings, space, trials)
    base: BaseSampler = RandomSampler(seed)
    if name == "gp":
        base = GPSampler(seed=seed, n_startup_trials=settings.startup_trials, warn_independent_sampling=False)
    elif name == "tpe":
        base = TPESampler(seed=seed, n_startup_trials=settings.startup_trials)
    return Distinct(base, space, seed)


def build_pruner(settings: StudySettings) -> optuna.pruners.BasePruner:
    """The pruner that the settings name."""
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(settings.startup_trials, settings.warmup_epochs)


class Distinct(BaseSampler):
    """What another sampler proposes, rounded; a point that the study has already is replaced by a random one.

    Only where a space is nearly used up no random one is new: then it is the first that is left.

    Args:
        base: the sampler that proposes.
        space: of the study.
        seed: of the replacements.
    """

    def __init__(self, base: BaseSampler, space: Space, seed: int) -> None:
        self.base, self.space = base, space
        self.distributions = {name: distribution_of(domain) for name, domain in space.items()}
        self.random = RandomSampler(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space, so that every value comes from `sample_relative`."""
        return self.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no trial of the study has, unless they have all."""
        known = self.base.infer_relative_search_space(study, trial)
        found = self.base.sample_relative(study, trial, known)
        point = rounded(self.space, self.completed(self.base, study, trial, found))
        taken = {as_key(given(other)) for other in others(study, trial)}
        for _ in range(TRIES):
            if as_key(point) not in taken:
                return point
            point = rounded(self.space, self.completed(self.random, study, trial, {}))
        return next((free for free in points(self.space) if as_key(free) not in taken), point)

    def completed(
        self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`found`, and a value of its own for every name that is missing there."""
        return {
            name: found[name]
            if name in found
            else sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in self.distributions.items()
        }

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value alone, where a trial was begun with some values given."""
        value = self.base.sample_independent(study, trial, param_name, param_distribution)
        return rounded(self.space, {param_name: value})[param_name]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass on."""
        self.base.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Pass on."""
        self.base.after_trial(study, trial, state, values)


def others(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All other trials, also those that run."""
    return [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]


def as_key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A point as a value that can be looked up."""
    return tuple(sorted(params.items()))
