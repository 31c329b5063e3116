from pathlib import Path

import pytest

from benchmarks import fair
from drtune.base.errors import ConfigError
from drtune.base.yaml import read_yaml
from drtune.params import SETTINGS
from drtune.sources.settings import DataSettings
from drtune.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def plan():
    return read_yaml(ROOT / "benchmarks/plan.yaml")


def resolved(plan, row, trial):
    params = fair.settings(plan, fair.cut(plan, "trashnet6", 3) | fair.fixed(row) | trial)
    train = params[TrainSettings]
    return params, train, params.method(train.method)


def test_every_method_has_a_row(plan):
    assert {row["method"] for row in plan["fair"]["rows"].values()} == set(SETTINGS)
    assert {row["title"] for row in plan["fair"]["rows"].values() if row["method"] == "sp"} == {
        "L2-SP", "L2-SP-Fisher", "L1-SP", "GL-SP", "GL-SP-Fisher",
    }  # fmt: skip


def test_conditions_are_equal(plan):
    same = {"epochs", "batch_size", "drop_last", "optimizer", "schedule", "seed", "monitor"}
    conditions = set()
    for row in plan["fair"]["rows"].values():
        params, train, _ = resolved(plan, row, {})
        conditions.add(str([params.raw["augment"], params[DataSettings], train.model_dump(include=same)]))
    assert len(conditions) == 1


def test_every_trial_of_a_row_is_another_training_and_all_rows_have_as_many(plan):
    budget = plan["fair"]["trials"]
    for name, row in plan["fair"]["rows"].items():
        found = [resolved(plan, row, trial)[1:] for trial in fair.trials(row, budget)]
        assert len({str(settings) for settings in found}) == budget, name
        rates = {(train.lr_backbone, train.lr_head) for train, _ in found}
        assert len(rates) >= 2, name


def test_what_a_set_sets_holds_on_that_set_alone(plan):
    own = fair.fixed(plan["fair"]["rows"]["l2_sp_fisher"])
    found = [fair.settings(plan, fair.cut(plan, name, 0) | own) for name in ("omniglot104", "trashnet6")]
    assert [params.method("sp").fisher_samples for params in found] == [32, 256]


def test_another_number_of_trials_is_refused(plan):
    row = plan["fair"]["rows"]["finetune"]
    with pytest.raises(ConfigError, match="'plain fine-tuning' has 4 combinations, fair.trials allows 5"):
        fair.trials(row, 5)
