"""Trials and studies that are given, not run, for the tests here."""

from types import SimpleNamespace

from drtune.studies.standing import Standing

SETTINGS = {
    "metric": "val_accuracy",
    "direction": "maximize",
    "cost": None,
    "trials": 20,
    "seeds": 1,
    "sampler": "auto",
    "startup_trials": 1,
    "pruner": "none",
    "warmup_epochs": 0,
    "seed": 0,
    "space": {},
}


def standing(first, state="COMPLETE", values=(0.5,), number=None, fault="", **params):
    return Standing(first if number is None else number, first, state, values, params, fault, "", 1.0)


def study_of(*trials, best=(), space=None, params=None):
    """What `chosen` and `export` need of a study."""
    settings_of = {"metric": "val_accuracy", "trials": 3, "space": {"left": "out"}, "cost": None}
    return SimpleNamespace(
        name="s",
        standings=lambda: list(trials),
        best=lambda: [trial for trial in trials if trial.first in best],
        settings=SimpleNamespace(model_dump=lambda: settings_of),
        space=space or {},
        design=SimpleNamespace(params=params or {}),
    )
