import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from stand_ins import standing, study_of

from drtune.base.errors import StudyError, TrainingError
from drtune.studies.domains import written
from drtune.studies.report import as_text, by_age, export, newest, overview
from drtune.studies.storage import open_storage
from drtune.studies.winner import chosen

PROCESS = {"proc.host": "host", "proc.pid": "17"}
NONE = "there is no study yet; `drtune study run` makes one"


@pytest.fixture
def storage(sqlite_url):
    opened = open_storage(sqlite_url)
    yield opened
    opened.engine.dispose()


def test_without_a_study_it_says_how_to_make_one(storage):
    assert overview(storage) == NONE
    with pytest.raises(StudyError, match="there is no study yet; `drtune study run` makes one"):
        newest(storage)


def test_the_newest_study_is_the_one_made_last_and_listed_last(storage, make_study, end):
    made = make_study("z")
    end(made, 0.5, [0.25])
    make_study("a", trials=7)
    optuna.create_study(study_name="m", storage=storage)
    make_study("z")  # gone on with, not made
    assert by_age(storage) == ["z", "a", "m"]
    assert newest(storage) == "m"
    assert overview(storage).split("\n") == [
        "z: 4 trials: 1 complete, 1 pruned",
        "a: 7 trials: 1 waiting",
        "'m': was not made by `drtune study run`; choose another --name",
    ]


def rows(text):
    """Cells of the lines that begin with a number."""
    return [line.split() for line in text.split("\n") if line[:1].isdigit()]


def test_the_best_come_first_and_then_what_is_not_done(make_study, end):
    study = make_study(trials=7)
    said = as_text(end(study, 0.5, 0.75, [0.25, 0.3], "the loss is no longer finite", None))
    assert said.startswith("study s: 7 trials: 2 complete, 1 pruned, 1 fail, 1 stopped\n")
    assert said.split("\n")[1].split() == ["trial", "state", "val_accuracy", "a", "b"]
    trials = {trial.first: [str(value) for value in trial.params.values()] for trial in study.standings()}
    assert rows(said) == [
        ["1", "complete", "0.7500", *trials[1]],
        ["0", "complete", "0.5000", "2", "3"],
        ["3", "fail", *trials[3], "the", "loss", "is", "no", "longer", "finite"],
        ["4", "stopped", *trials[4]],
    ]
    assert "params.yaml as it stood: val_accuracy 0.5000; best: 0.7500" in said
    assert "`drtune study apply s` writes trial 1 into params.yaml" in said


def test_a_running_trial_shows_its_last_value_and_where_it_runs(make_study):
    study = make_study()
    attempt = study.next(PROCESS)
    attempt.report(0.125, 0)
    attempt.report(0.25, 1)
    said = as_text(study)
    assert rows(said) == [["0", "running", "0.2500", "2", "3", "host", "pid", "17"]]
    assert "apply" not in said, "nothing is complete yet"


def test_the_least_loss_is_the_best(make_study, end):
    study = make_study(metric="val_loss", direction="minimize")
    said = as_text(end(study, 0.5, 0.75, 0.25))
    assert [row[2] for row in rows(said)] == ["0.2500", "0.5000", "0.7500"]
    assert "params.yaml as it stood: val_loss 0.5000; best: 0.2500" in said


def test_of_many_trials_the_ten_best_are_shown(make_study, end):
    said = as_text(end(make_study(trials=12), *(number / 100 for number in range(12))))
    assert [row[0] for row in rows(said)] == [str(number) for number in range(11, 1, -1)]
    assert "study s: 12 trials: 12 complete" in said
    assert "what moves val_accuracy: " in said
    shares = said.split("what moves val_accuracy: ")[1].split("\n")[0].split(", ")
    assert sorted(share.split()[0] for share in shares) == ["a", "b"]
    numbers = [int(share.split()[1].rstrip("%")) for share in shares]
    assert numbers == sorted(numbers, reverse=True)
    assert sum(numbers) in (99, 100, 101)


def test_two_objectives_have_no_single_best(make_study, end):
    study = make_study(cost="seconds")
    said = as_text(end(study, (0.5, 1.0), (0.75, 2.0), (0.25, 3.0)))
    assert rows(said)[0][:4] == ["1", "complete", "0.7500", "2.0000"]
    assert "as it stood" not in said
    front = "best trade-offs: trials 0, 1; `drtune study apply s --trial 0` writes one of them"
    assert front in said


def test_two_objectives_may_have_one_best(make_study, end):
    said = as_text(end(make_study(cost="seconds"), (0.5, 2.0), (0.75, 1.0)))
    assert "`drtune study apply s` writes trial 1 into params.yaml" in said


def test_a_fault_is_shown_as_it_was_told(make_study, end):
    fault = "[red]rows[/red] [0, 1] :warning: of s.png"
    assert fault in as_text(end(make_study(), str(TrainingError(fault))))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.00003, "3e-05"),
        (0.123456, "0.1235"),
        ("off", "off"),
        (None, "null"),
    ],
)
def test_values_are_shown_shortly(value, text):
    assert written(value) == text


# --- the summary for git


def strict(path):
    """A JSON document that is nothing but JSON."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(word))


def is_sorted(value):
    if isinstance(value, dict):
        return list(value) == sorted(value) and all(map(is_sorted, value.values()))
    return all(map(is_sorted, value)) if isinstance(value, list) else True


def test_a_study_is_written_sorted_and_without_what_is_no_json(tmp_path):
    study = study_of(
        standing(2, "PRUNED", (float("nan"),), z=1, a=0.5),
        standing(0, "COMPLETE", (0.75,), z="ü", a=True),
        standing(1, "FAIL", (), fault="loss is inf"),
        standing(3, "PRUNED", (float("-inf"),)),
        best=[0],
        space={"z": IntDistribution(1, 8, log=True), "a": CategoricalDistribution(("x", True))},
        params={"train.seed": 0, "augment.crop_area": [0.6, 1.0]},
    )
    export(study, tmp_path / "studies" / "s.json")
    found = strict(tmp_path / "studies" / "s.json")
    assert is_sorted(found)
    assert found == {
        "best": [0],
        "name": "s",
        "params": {"augment.crop_area": [0.6, 1.0], "train.seed": 0},
        "settings": {"cost": None, "metric": "val_accuracy", "trials": 3},
        "space": {
            "a": {"choices": ["x", True]},
            "z": {"high": 8, "log": True, "low": 1, "step": None, "whole": True},
        },
        "trials": [
            {"number": 0, "params": {"a": True, "z": "ü"}, "state": "COMPLETE", "values": [0.75]},
            {"fault": "loss is inf", "number": 1, "params": {}, "state": "FAIL", "values": []},
            {"number": 2, "params": {"a": 0.5, "z": 1}, "state": "PRUNED", "values": ["nan"]},
            {"number": 3, "params": {}, "state": "PRUNED", "values": ["-inf"]},
        ],
    }
    assert "ü" in (tmp_path / "studies" / "s.json").read_text(encoding="utf-8")


def test_equal_studies_give_equal_bytes(tmp_path):
    trials = [standing(0, a=1, b=2.0), standing(1, b=3.0, a=4)]
    space, params = {"a": IntDistribution(1, 8), "b": FloatDistribution(0.0, 4.0)}, {"x": 1, "y": 2}
    for name, back in (("one", 1), ("other", -1)):
        turned = [dict(list(values.items())[::back]) for values in (space, params)]
        export(study_of(*trials[::back], best=[1], space=turned[0], params=turned[1]), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_real_study_is_written_and_its_winner_found(tmp_path, new_study):
    study = new_study(trials=3)
    for value in (0.5, 0.75):
        study.next({}).complete([value])
    export(study, tmp_path / "s.json")
    found = strict(tmp_path / "s.json")
    assert (found["best"], chosen(study, None).first) == ([1], 1)
    assert [trial["values"] for trial in found["trials"]] == [[0.5], [0.75]]
    assert found["trials"][0]["params"] == {"methods.dr_tune.weight": 1.0}
    export(study, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "s.json").read_bytes()
