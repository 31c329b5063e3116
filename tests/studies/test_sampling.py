import math
import warnings
from statistics import median

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from stand_ins import SETTINGS as COMMON

from drtune.studies.domains import count_of, holds, points
from drtune.studies.sampling import (
    as_key,
    build_pruner,
    build_sampler,
    next_point,
    seed_of,
)
from drtune.studies.space import StudySettings

SETTINGS = {**COMMON, "startup_trials": 4, "pruner": "median", "warmup_epochs": 3}
NUMBERS = {
    "train.lr_head": FloatDistribution(0.0251234567, 2.51234567, log=True),
    "methods.dr_tune.bank_size": IntDistribution(32, 2048, log=True),
}
MIXED = NUMBERS | {
    "methods.dr_tune.rotation": CategoricalDistribution(("proper", "off")),
    "methods.dr_tune.translation": CategoricalDistribution((True, False)),
    "train.momentum": FloatDistribution(0.5, 0.9, step=0.1),
}
SMALL = {
    "a": FloatDistribution(0.1, 0.4, step=0.1),
    "b": CategoricalDistribution(("x", "y")),
    "c": IntDistribution(1, 6),
}
SAMPLERS = ["gp", "tpe", "random"]
FAST = ["tpe", "random"]


@pytest.fixture(autouse=True)
def _quiet():
    """pytest puts back Optuna's warnings, which `search.storage` switches off."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(before)


def settings(**change):
    return StudySettings.model_validate(SETTINGS | change)


def new_study(space, first=None, directions=("maximize",)):
    """An empty study in memory; with a first point that is given."""
    study = optuna.create_study(directions=list(directions))
    if first:
        study.enqueue_trial(first)
    return study


def ask(study, space, **change):
    """The next trial, as a worker that has just started asks for it."""
    if not study.get_trials(states=[TrialState.WAITING]):
        study.enqueue_trial(next_point(study, settings(**change), space, 20))
    return study.ask(dict(space))


def drawn(space, count, told=True, **change):
    """Points of a study; all of them run at once unless each is told before the next is asked for."""
    study = new_study(space)
    found = []
    for number in range(count):
        trial = ask(study, space, **change)
        found.append(trial.params)
        if told:
            study.tell(trial, (number * 7 % 5) / 5)
    return found


# --- seeds


@pytest.mark.parametrize("study_seed", [0, 1, 19, 2**31])
def test_no_two_trials_of_a_study_have_the_same_seed(study_seed):
    seeds = [seed_of(study_seed, number) for number in range(50_000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_studies_with_other_seeds_have_other_seeds():
    sets = [{seed_of(study_seed, number) for number in range(1000)} for study_seed in range(20)]
    assert len(set.union(*sets)) == 20_000


# --- which sampler


@pytest.mark.parametrize(
    ("sampler", "space", "trials", "name"),
    [
        ("auto", NUMBERS, 100, "gp"),
        ("auto", NUMBERS, 101, "tpe"),
        ("auto", MIXED, 20, "tpe"),
        ("gp", MIXED, 1000, "gp"),
        ("tpe", NUMBERS, 20, "tpe"),
        ("random", NUMBERS, 20, "random"),
    ],
)
def test_auto_is_a_gaussian_process_for_few_trials_of_numbers_alone(sampler, space, trials, name):
    kinds = {"gp": GPSampler, "tpe": TPESampler, "random": RandomSampler}
    assert type(build_sampler(settings(sampler=sampler), space, trials, 0)) is kinds[name]


def test_what_counts_are_the_trials_of_the_study_not_of_params_yaml():
    assert type(build_sampler(settings(trials=20), NUMBERS, 500, 0)) is TPESampler
    assert type(build_sampler(settings(trials=500), NUMBERS, 20, 0)) is GPSampler


# --- points


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_numbers_have_six_digits_and_lie_in_their_domain(sampler):
    space = MIXED if sampler != "gp" else NUMBERS
    for point in drawn(space, 7, sampler=sampler):
        assert point.keys() == space.keys()
        assert all(holds(space[name], value) for name, value in point.items())
        rate = point["train.lr_head"]
        assert rate == float(f"{rate:.6g}") or rate in (0.0251234567, 2.51234567)
        assert type(point["methods.dr_tune.bank_size"]) is int


def test_a_value_that_rounding_would_push_over_an_end_stays_at_the_end():
    narrow = {"x": FloatDistribution(0.12345674, 0.12345676)}
    assert {point["x"] for point in drawn(narrow, 5, sampler="random")} <= {0.12345674, 0.12345676}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_points_and_another_seed_others(sampler):
    first, again = (drawn(NUMBERS, 6, sampler=sampler) for _ in range(2))
    assert first == again
    other = drawn(NUMBERS, 6, sampler=sampler, seed=1)
    assert not {as_key(point) for point in first} & {as_key(point) for point in other}


@pytest.mark.parametrize("sampler", FAST)
@pytest.mark.parametrize("told", [True, False])
def test_a_finite_space_is_used_up_without_a_point_twice(sampler, told):
    found = drawn(SMALL, count_of(SMALL), told, sampler=sampler)
    assert len({as_key(point) for point in found}) == 48
    assert {as_key(point) for point in found} == {as_key(point) for point in points(SMALL)}


@pytest.mark.parametrize("left", [7, 1500, 2999])
def test_the_last_point_of_a_large_space_is_found(left):
    space = {"n": IntDistribution(0, 2999)}
    study = new_study(space)
    for number in range(3000):
        if number != left:
            study.add_trial(optuna.trial.create_trial(params={"n": number}, distributions=space, value=0.0))
    assert ask(study, space, sampler="tpe").params == {"n": left}


def test_where_all_points_are_taken_a_point_comes_a_second_time():
    space = {"c": CategoricalDistribution(("x", "y"))}
    found = drawn(space, 3, sampler="random")
    assert {point["c"] for point in found[:2]} == {"x", "y"}
    assert found[2]["c"] in ("x", "y")


def test_a_gaussian_process_does_not_repeat_itself_either():
    space = {"a": IntDistribution(1, 3), "b": FloatDistribution(0.0, 0.3, step=0.1)}
    found = drawn(space, 12, sampler="gp", startup_trials=2)
    assert {as_key(point) for point in found} == {as_key(point) for point in points(space)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_that_run_at_once_have_points_of_their_own(sampler):
    study = new_study(NUMBERS)
    for number in range(5):
        study.tell(ask(study, NUMBERS, sampler=sampler), number / 5)
    running = [ask(study, NUMBERS, sampler=sampler).params for _ in range(4)]
    assert len({as_key(point) for point in running}) == 4


def test_the_point_of_a_trial_that_waits_is_taken_as_well():
    space = {"c": CategoricalDistribution(("x", "y"))}
    for seed in range(8):
        study = new_study(space)
        trial = ask(study, space, seed=seed, sampler="random")
        study.tell(trial, 0.0)
        other = {"c": "y" if trial.params["c"] == "x" else "x"}
        study.enqueue_trial(other)
        large = space | {"d": CategoricalDistribution((1, 2))}
        found = next_point(study, settings(sampler="random", seed=seed), space, 20)
        assert found in (trial.params, other), "all are taken, so one comes a second time"
        study.enqueue_trial({**other, "d": 1})
        assert next_point(study, settings(sampler="random", seed=seed), large, 20) != {**other, "d": 1}


def test_a_first_point_is_taken_as_it_is_given():
    first = {"train.lr_head": 0.12345678901, "methods.dr_tune.bank_size": 2048}
    study = new_study(NUMBERS, first)
    assert ask(study, NUMBERS, sampler="tpe").params == first
    assert ask(study, NUMBERS, sampler="tpe").params != first


def test_a_point_that_is_given_in_part_is_completed():
    study = new_study(MIXED, {"methods.dr_tune.rotation": "off"})
    point = ask(study, MIXED, sampler="tpe").params
    assert point["methods.dr_tune.rotation"] == "off"
    assert all(holds(domain, point[name]) for name, domain in MIXED.items())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_objectives(sampler):
    study = new_study(NUMBERS, directions=("maximize", "minimize"))
    change = {"sampler": sampler, "cost": "seconds", "pruner": "none", "startup_trials": 2}
    for number in range(4):
        study.tell(ask(study, NUMBERS, **change), [number / 5, 5.0 - number])
    assert len({as_key(trial.params) for trial in study.trials}) == 4


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_learns(sampler):
    space = {"x": FloatDistribution(-10.0, 10.0)}
    study = new_study(space)
    for _ in range(24 if sampler == "tpe" else 12):
        trial = ask(study, space, sampler=sampler)
        study.tell(trial, -abs(trial.params["x"] - 3))
    late = [abs(trial.params["x"] - 3) for trial in study.trials[-4:]]
    assert min(late) < 0.5
    assert study.best_trial.number >= 4, "better than the random ones it began with"


def smooth(params):
    """A noiseless objective with its best point inside MIXED."""
    rate = math.log10(params["train.lr_head"] / 0.25)
    rows = math.log10(params["methods.dr_tune.bank_size"] / 250)
    switches = (params["methods.dr_tune.rotation"] == "off") + (not params["methods.dr_tune.translation"])
    return -(rate**2) - rows**2 - 0.2 * switches - abs(params["train.momentum"] - 0.7)


def median_best(sampler):
    """Over five studies of 20 trials."""
    bests = []
    for seed in range(5):
        study = new_study(MIXED)
        for _ in range(20):
            trial = ask(study, MIXED, sampler=sampler, seed=seed)
            study.tell(trial, smooth(trial.params))
        bests.append(study.best_value)
    return median(bests)


def test_without_noise_tpe_beats_random_search_on_the_same_budget():
    assert median_best("tpe") > median_best("random")


# --- pruning


def pruned_at(value, others, epochs=8, **change):
    """The epoch at which a trial of constant value is pruned, beside complete trials of constant values."""
    study = optuna.create_study(direction="maximize", pruner=build_pruner(settings(**change)))
    for other in others:
        trial = study.ask()
        for epoch in range(epochs):
            trial.report(other, epoch)
        study.tell(trial, other)
    trial = study.ask()
    for epoch in range(epochs):
        trial.report(value, epoch)
        if trial.should_prune():
            return epoch
    return None


def test_a_bad_trial_is_pruned_after_the_warm_up():
    others = [0.5, 0.6, 0.7, 0.8]
    assert pruned_at(0.1, others) == 3
    assert pruned_at(0.1, others, warmup_epochs=0) == 0
    assert pruned_at(0.1, others, warmup_epochs=6) == 6
    assert pruned_at(0.1, others, warmup_epochs=8) is None


def test_a_trial_better_than_the_median_is_not_pruned():
    assert pruned_at(0.66, [0.5, 0.6, 0.7, 0.8]) is None
    assert pruned_at(0.64, [0.5, 0.6, 0.7, 0.8]) == 3


def test_none_is_pruned_before_enough_are_complete():
    assert pruned_at(0.1, [0.5, 0.6, 0.7]) is None
    assert pruned_at(0.1, [0.5, 0.6, 0.7], startup_trials=3) == 3


def test_a_pruned_trial_does_not_count_as_complete():
    study = optuna.create_study(direction="maximize", pruner=build_pruner(settings(startup_trials=1)))
    trial = study.ask()
    trial.report(0.9, 5)
    study.tell(trial, state=TrialState.PRUNED)
    trial = study.ask()
    trial.report(0.1, 5)
    assert not trial.should_prune()


def test_pruning_can_be_switched_off():
    assert pruned_at(0.1, [0.5, 0.6, 0.7, 0.8], pruner="none") is None
    assert isinstance(build_pruner(settings(pruner="none")), NopPruner)
    assert isinstance(build_pruner(settings()), MedianPruner)
