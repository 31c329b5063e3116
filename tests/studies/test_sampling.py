import math
import warnings
from statistics import median

import optuna
import pytest
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from drtune.studies.domains import Choices, Interval, count_of, points
from drtune.studies.sampling import (
    as_key,
    build_pruner,
    build_sampler,
    distribution_of,
    sampler_name,
    seed_of,
)
from drtune.studies.space import StudySettings

SETTINGS = {
    "metric": "val_accuracy",
    "direction": "maximize",
    "cost": None,
    "trials": 20,
    "seeds": 1,
    "sampler": "auto",
    "startup_trials": 4,
    "pruner": "median",
    "warmup_epochs": 3,
    "seed": 0,
    "space": {},
}
NUMBERS = {
    "train.lr_head": Interval(0.0251234567, 2.51234567, log=True),
    "methods.dr_tune.bank_size": Interval(32, 2048, log=True, whole=True),
}
MIXED = NUMBERS | {
    "methods.dr_tune.rotation": Choices(("proper", "off")),
    "methods.dr_tune.translation": Choices((True, False)),
    "train.momentum": Interval(0.5, 0.9, step=0.1),
}
SMALL = {"a": Interval(0.1, 0.4, step=0.1), "b": Choices(("x", "y")), "c": Interval(1, 6, whole=True)}
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
    return study, {name: distribution_of(domain) for name, domain in space.items()}


def ask(study, space, distributions, **change):
    """The next trial, as a worker that has just started asks for it."""
    number = len(study.get_trials(deepcopy=False))
    study.sampler = build_sampler(settings(**change), space, 20, number)
    return study.ask(distributions)


def drawn(space, count, told=True, **change):
    """Points of a study; all of them run at once unless each is told before the next is asked for."""
    study, distributions = new_study(space)
    found = []
    for number in range(count):
        trial = ask(study, space, distributions, **change)
        found.append(trial.params)
        if told:
            study.tell(trial, (number * 7 % 5) / 5)
    return found


# --- domains in Optuna's terms


def test_a_distribution_has_the_values_of_its_domain():
    assert distribution_of(Interval(0.1, 2.0, log=True)) == optuna.distributions.FloatDistribution(
        0.1, 2.0, log=True
    )
    assert distribution_of(SMALL["a"]) == optuna.distributions.FloatDistribution(0.1, 0.4, step=0.1)
    assert distribution_of(NUMBERS["methods.dr_tune.bank_size"]) == optuna.distributions.IntDistribution(
        32, 2048, log=True
    )
    assert distribution_of(Interval(32, 96, step=32, whole=True)) == optuna.distributions.IntDistribution(
        32, 96, step=32
    )
    assert distribution_of(Choices((True, "off"))).choices == (True, "off")


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
    assert sampler_name(settings(sampler=sampler), space, trials) == name
    assert type(build_sampler(settings(sampler=sampler), space, trials, 0).base) is kinds[name]


def test_what_counts_are_the_trials_of_the_study_not_of_params_yaml():
    assert sampler_name(settings(trials=20), NUMBERS, 500) == "tpe"
    assert sampler_name(settings(trials=500), NUMBERS, 20) == "gp"


# --- points


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_numbers_have_six_digits_and_lie_in_their_domain(sampler):
    space = MIXED if sampler != "gp" else NUMBERS
    for point in drawn(space, 7, sampler=sampler):
        assert point.keys() == space.keys()
        assert all(value in space[name] for name, value in point.items())
        rate = point["train.lr_head"]
        assert rate == float(f"{rate:.6g}") or rate in space["train.lr_head"].ends
        assert type(point["methods.dr_tune.bank_size"]) is int


def test_a_value_that_rounding_would_push_over_an_end_stays_at_the_end():
    narrow = {"x": Interval(0.12345674, 0.12345676)}
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
    space = {"n": Interval(0, 2999, whole=True)}
    study, distributions = new_study(space)
    for number in range(3000):
        if number != left:
            study.add_trial(
                optuna.trial.create_trial(params={"n": number}, distributions=distributions, value=0.0)
            )
    assert ask(study, space, distributions, sampler="tpe").params == {"n": left}


def test_where_all_points_are_taken_a_point_comes_a_second_time():
    space = {"c": Choices(("x", "y"))}
    found = drawn(space, 3, sampler="random")
    assert {point["c"] for point in found[:2]} == {"x", "y"}
    assert found[2]["c"] in ("x", "y")


def test_a_gaussian_process_does_not_repeat_itself_either():
    space = {"a": Interval(1, 3, whole=True), "b": Interval(0.0, 0.3, step=0.1)}
    found = drawn(space, 12, sampler="gp", startup_trials=2)
    assert {as_key(point) for point in found} == {as_key(point) for point in points(space)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_that_run_at_once_have_points_of_their_own(sampler):
    study, distributions = new_study(NUMBERS)
    for number in range(5):
        study.tell(ask(study, NUMBERS, distributions, sampler=sampler), number / 5)
    running = [ask(study, NUMBERS, distributions, sampler=sampler).params for _ in range(4)]
    assert len({as_key(point) for point in running}) == 4


def test_the_point_of_a_trial_that_waits_is_taken_as_well():
    space = {"c": Choices(("x", "y"))}
    for seed in range(8):
        study, distributions = new_study(space)
        trial = ask(study, space, distributions, seed=seed, sampler="random")
        study.enqueue_trial({"c": "y" if trial.params["c"] == "x" else "x"})
        sampler = build_sampler(settings(sampler="random", seed=seed), space, 20, 2)
        frozen = study.get_trials()[0]
        assert sampler.sample_relative(study, frozen, distributions) == trial.params


def test_a_first_point_is_taken_as_it_is_given():
    first = {"train.lr_head": 0.12345678901, "methods.dr_tune.bank_size": 2048}
    study, distributions = new_study(NUMBERS, first)
    assert ask(study, NUMBERS, distributions, sampler="tpe").params == first
    assert ask(study, NUMBERS, distributions, sampler="tpe").params != first


def test_a_point_that_is_given_in_part_is_completed():
    study, distributions = new_study(MIXED, {"methods.dr_tune.rotation": "off"})
    point = ask(study, MIXED, distributions, sampler="tpe").params
    assert point["methods.dr_tune.rotation"] == "off"
    assert all(point[name] in domain for name, domain in MIXED.items())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_objectives(sampler):
    study, distributions = new_study(NUMBERS, directions=("maximize", "minimize"))
    change = {"sampler": sampler, "cost": "seconds", "pruner": "none", "startup_trials": 2}
    for number in range(4):
        study.tell(ask(study, NUMBERS, distributions, **change), [number / 5, 5.0 - number])
    assert len({as_key(trial.params) for trial in study.trials}) == 4


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_learns(sampler):
    space = {"x": Interval(-10.0, 10.0)}
    study, distributions = new_study(space)
    for _ in range(24 if sampler == "tpe" else 12):
        trial = ask(study, space, distributions, sampler=sampler)
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
        study, distributions = new_study(MIXED)
        for _ in range(20):
            trial = ask(study, MIXED, distributions, sampler=sampler, seed=seed)
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
