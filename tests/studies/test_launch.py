import logging
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from drtune.base.errors import ConfigError, StudyError
from drtune.base.files import read_json
from drtune.params import SETTINGS, load
from drtune.runs.lifecycle import Stopped
from drtune.runs.stage_key import StageIdentity, stage_key
from drtune.studies import design, launch, winner
from drtune.studies.launch import Order, Watch, finish, opened, run_study
from drtune.studies.report import as_text
from drtune.studies.storage import open_storage, storage_url
from drtune.studies.winner import apply_trial
from drtune.studies.worker import take_over, trial_folder

PROCESS = {"proc.host": "host", "proc.pid": "17"}
STUDY = {"study.trials": 4, "study.space": {"train.lr_head": [0.003, 0.03, 0.04, 0.05, 0.06]}}


class Run:
    """What a study's run is told."""

    link, run_id = "http://127.0.0.1/run", ""

    def __init__(self):
        self.told, self.tags, self.attached, self.status = [], {}, set(), ""

    def begin(self, record, settings):
        self.settings, self.run_id = settings, "run"
        return self.run_id

    def tell(self, best, tags, note=""):
        self.told.append(list(best))
        self.tags, self.note = tags, note

    def attach(self, folder):
        self.attached |= {path.name for path in folder.iterdir()}

    def end(self, status):
        self.status = status


def test_each_trial_is_said_once_when_it_has_ended(make_study, end):
    study, run, said = make_study(trials=6), Run(), []
    end(study, 0.25)
    watch = Watch(study, run, said.append)
    watch.look()
    assert (said, run.told) == ([], []), "what ended before is not news"
    end(study, 0.5, [0.1, 0.125], "the loss is no longer finite")
    running = study.next(PROCESS)
    watch.look()
    watch.look()
    assert said == [
        "  2 of 6  trial 1: 0.5000  best",
        "  3 of 6  trial 2: pruned at 0.1250",
        "  4 of 6  trial 3: the loss is no longer finite",
    ]
    assert run.told == [[0.25, 0.5]], "told once, with what came before"
    running.complete([0.375])
    watch.look()
    assert said[3:] == ["  5 of 6  trial 4: 0.3750"]
    assert run.told[-1] == [0.25, 0.5, 0.5], "the best so far"
    assert run.tags["optuna.trials"] == "6: 3 complete, 1 pruned, 1 fail"
    assert (run.tags["optuna.best_trials"], run.tags["optuna.study"]) == ("1", "s")
    assert run.tags["optuna.best_params"] == str(dict(study.best()[0].params))


def test_a_trial_that_is_given_again_is_said_when_it_has_ended(make_study, end):
    study, said = make_study(), []
    watch = Watch(study, Run(), said.append)
    study.next(PROCESS).stopped()
    watch.look()
    assert said == []
    end(study, 0.5)
    watch.look()
    assert said == ["  1 of 4  trial 0: 0.5000  best"]


def test_the_best_so_far_follows_the_order_in_which_trials_ended(make_study, end):
    study = make_study(metric="val_loss", direction="minimize", trials=5)
    first, second = study.next(PROCESS), study.next(PROCESS)
    second.complete([0.5])
    first.complete([0.75])
    end(study, [0.1], 0.25)
    run = Run()
    launch.tell(study, run, study.standings())
    assert run.told == [[0.5, 0.5, 0.25]]


def test_the_end_leaves_pictures_and_a_summary(make_study, tmp_path, end):
    study, run = make_study(), Run()
    end(study, 0.25, 0.5, [0.1], 0.4)
    finish(study, run, tmp_path, "FINISHED")
    report = tmp_path / ".drtune/studies/s/report"
    files = {path.name for path in report.iterdir()}
    assert {"history.png", "slices.png", "parallel.png", "study.json"} <= files == run.attached
    assert (report / "history.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(report / "study.json")["best"] == [1]
    assert (run.status, run.told) == ("FINISHED", [[0.25, 0.5, 0.5]])
    assert run.note.startswith("```\nstudy s: 4 trials: 3 complete, 1 pruned\n")
    assert run.note.endswith("\n```")


def test_two_objectives_are_drawn_as_a_front(make_study, tmp_path, end):
    study, run = make_study(cost="seconds"), Run()
    end(study, (0.25, 1.0), (0.5, 2.0), (0.125, 3.0))
    finish(study, run, tmp_path, "FINISHED")
    assert {"front.png", "slices.png", "study.json"} == run.attached
    assert run.tags["optuna.best_trials"] == "0, 1"


def test_a_study_without_a_complete_trial_has_a_report_too(make_study, tmp_path, end):
    study, run = make_study(), Run()
    end(study, "out of memory")
    finish(study, run, tmp_path, "KILLED")
    assert {"history.png", "study.json"} == run.attached
    assert (run.status, run.told, run.tags["optuna.best_params"]) == ("KILLED", [[]], "")


def test_the_end_leaves_no_trial_that_runs_no_longer(make_study, tmp_path, end):
    study, run = make_study(), Run()
    end(study, 0.5)
    gone = {"proc.host": socket.gethostname(), "proc.pid": "1", "proc.start": "1.0", "proc.boot": "another"}
    study.next(gone)
    study.inner.ask(dict(study.space))  # a worker was told to stop before it had said whose it is
    assert [trial.state for trial in study.trials()].count(TrialState.RUNNING) == 2
    assert "study s: 4 trials: 1 complete, 2 stopped\n" in as_text(study), "nobody runs them"
    finish(study, run, tmp_path, "KILLED")
    assert TrialState.RUNNING not in [trial.state for trial in study.trials()]
    assert run.tags["optuna.trials"] == "4: 1 complete, 2 waiting"
    assert (end(study, 0.5, 0.5, 0.5).next(PROCESS), len(study.standings())) == (None, 4)


def test_a_report_that_fails_hides_nothing(make_study, tmp_path, monkeypatch, caplog):
    study, run = make_study(), Run()

    def away():
        raise StudyError("postgresql://me:s3cret@host/db does not answer")

    monkeypatch.setattr(study, "standings", away)
    with caplog.at_level(logging.WARNING):
        finish(study, run, tmp_path, "FAILED")
    assert run.status == "FAILED"
    (said,) = caplog.messages
    assert "no report of the study: postgresql://host/db does not answer; `drtune study resume`" in said


@pytest.fixture
def home(tmp_path, tiny_params, monkeypatch):
    """The current folder, with settings that are right."""
    tiny_params(tmp_path / "params.yaml", STUDY)
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "order", "error", "text"),
    [
        (
            {"study.space": {"train.nope": [1, 2]}},
            {},
            ConfigError,
            "study.space.train.nope .*unknown setting",
        ),
        ({"data.source": "gone"}, {}, ConfigError, "data.source .*gone"),
        ({}, {"trials": 6}, StudyError, "--trials 6 .*5"),
        ({}, {"storage": "mysql://host/db"}, StudyError, "no storage for studies; allowed: sqlite"),
        ({}, {"storage": "postgresql+psycopg://me:s3cret@127.0.0.1:1/db"}, StudyError, "cannot be used"),
        ({}, {"name": "../s"}, StudyError, "--name '../s': it names a folder too; give one without / in it"),
        ({}, {"name": ".."}, StudyError, "--name '..': it names a folder too"),
    ],
)
def test_every_fault_comes_before_the_stages(home, tiny_params, monkeypatch, change, order, error, text):
    monkeypatch.setattr(launch, "opened", lambda *_: pytest.fail("the stages have begun"))
    tiny_params(home / "params.yaml", {**STUDY, **change})
    before = sorted(home.iterdir())
    with pytest.raises(error, match=text) as fault:
        run_study(home, Order(**order), print)
    assert "s3cret" not in str(fault.value)
    assert sorted(home.iterdir()) == before, "nothing was made"


@contextmanager
def nothing():
    yield


@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, "FINISHED"), (Stopped(15), "KILLED"), (StudyError("worker 0 ended with 1"), "FAILED")],
)
def test_the_status_of_a_study_is_true(home, make_study, monkeypatch, fault, status, end):
    study, run, said, crews = make_study(), Run(), [], []
    end(study, 0.25)

    def supervise(crew, news):
        crews.append(crew)
        end(study, 0.5)
        news()
        if fault:
            raise fault

    monkeypatch.setattr(launch, "opened", lambda *_: study)
    monkeypatch.setattr(launch, "StudyRun", lambda *about: run)
    monkeypatch.setattr(launch, "supervise", supervise)
    monkeypatch.setattr(launch, "write_report", lambda *_: None)
    with pytest.raises(type(fault)) if fault else nothing():
        run_study(home, Order(workers=2, gpus=["0", "1"], timeout=60.0), said.append)
    assert run.status == status
    assert (run.told[-1], run.settings["trials"]) == ([0.25, 0.5], 4)
    assert study.inner.user_attrs["mlflow_run"] == "run"
    (crew,) = crews
    assert (crew.study, crew.storage) == ("s", storage_url(home))
    assert (crew.workers, crew.gpus, crew.logs) == (2, ["0", "1"], home / ".drtune/studies/s")
    assert crew.until > 0
    assert said[0:2] == ["study s: 4 trials, 3 to do, 2 workers", Run.link]
    assert "  2 of 4  trial 1: 0.5000  best" in said
    assert ("stopped; `drtune study resume s` goes on" in said) == (status == "KILLED")


@pytest.mark.parametrize(
    ("ends", "left"), [((0.5, [0.25]), 2), ((0.5, 0.5, "a fault", [0.25]), 0), ((0.5, 0.5, 0.5), 1)]
)
def test_no_more_workers_than_trials_that_have_not_ended(home, make_study, monkeypatch, ends, left, end):
    study, crews = make_study(), []
    end(study, *ends)
    if left == 1:
        study.next(PROCESS)  # somebody has it, and may be killed
    monkeypatch.setattr(launch, "opened", lambda *_: study)
    monkeypatch.setattr(launch, "StudyRun", lambda *about: Run())
    monkeypatch.setattr(launch, "supervise", lambda crew, news: crews.append(crew))
    monkeypatch.setattr(launch, "write_report", lambda *_: None)
    run_study(home, Order(workers=3), print)
    assert [crew.workers for crew in crews] == [left]


@pytest.fixture
def stages(home, monkeypatch):
    """What DVC does and says: the exit code of `dvc repro`, the train stage as it stands."""

    class Stages:
        code, commands = 0, []
        identity = StageIdentity("", {}, ("models",), {})

        @classmethod
        def set(cls, **deps):
            params = load(Path("params.yaml"), SETTINGS).raw
            entry = {
                "cmd": "train",
                "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
                "params": {"params.yaml": {"train": params["train"], "methods.dr_tune": {"weight": 1.0}}},
                "outs": [{"path": "models"}],
            }
            cls.identity = StageIdentity(stage_key(entry), deps, ("models",), entry)

    def run(command, cwd, check):
        assert cwd == Path.cwd()
        Stages.commands.append(command[1:])
        return subprocess.CompletedProcess(command, Stages.code)

    Stages.set(data="d")
    monkeypatch.setattr(launch.subprocess, "run", run)
    monkeypatch.setattr(design, "current_stage_key", lambda folder, stage: Stages.identity)
    return Stages


@pytest.fixture
def begun(home, sqlite_url):
    """Open the study of the current folder."""
    storage = open_storage(sqlite_url)
    yield lambda **order: opened(load(Path("params.yaml"), SETTINGS), storage, Order(**order), print)
    storage.engine.dispose()


def test_the_stages_before_training_come_first(begun, stages, capsys):
    begun()
    assert stages.commands == [["-m", "dvc", "repro", "extract"]]
    assert capsys.readouterr().out == "stages before training: dvc repro extract\n"
    stages.code = 1
    with pytest.raises(StudyError, match="the stages before training failed, see above; mend that and run"):
        begun()
    stages.code, stages.identity = 0, None
    with pytest.raises(StudyError, match="the train stage has no key here; run this in the project's folder"):
        begun()


def test_commands_that_begin_at_once_bring_the_stages_up_to_date_in_turn(begun, stages, monkeypatch):
    inside, most = [], []

    def run(command, cwd, check):
        inside.append(command)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(launch.subprocess, "run", run)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(launch.brought_up_to_date, [Path.cwd()] * 4))
    assert (most, found) == ([1] * 4, [stages.identity] * 4)


def test_a_study_is_named_after_the_method_and_what_it_is_about(begun, stages, tiny_params):
    study = begun()
    assert study.name == f"dr_tune-{study.design.fingerprint()[:8]}"
    assert (study.limit, begun(trials=5).limit, begun().limit) == (4, 5, 4)
    assert begun().name == study.name, "the same command goes on"
    stages.set(data="other")
    assert begun().name != study.name
    assert begun(name="mine").name == "mine"
    stages.set(data="d")
    with pytest.raises(
        StudyError, match=r"'mine' is about something else; another --name .*\n  deps.data: ch"
    ):
        begun(name="mine")


@pytest.fixture
def ended(begun, stages, monkeypatch, end):
    """A study whose first trial is its best, and the folder where its model should be."""
    monkeypatch.setattr(winner, "refuse_uncommitted", lambda path: None)
    study = begun(name="s")
    end(study, 0.5, 0.25)
    trial = trial_folder(Path.cwd(), "s", 0)
    return study, trial, trial / "seed-0"


def applied(study, number=None):
    said = []
    apply_trial(Path.cwd(), study, number, False, said.append)
    return said


def test_the_model_of_a_trial_is_handed_to_dvc_where_it_was_made_from_the_same(
    ended, stages, monkeypatch, tiny_params
):
    study, trial, folder = ended
    given = []

    def give(root, entry, values, folder):
        given.append((root, entry, dict(values), folder))
        return True

    monkeypatch.setattr(winner, "give_to_dvc", give)
    rate = study.standings()[0].params["train.lr_head"]
    gone = "the model of trial 0 is not on this machine: `dvc repro` trains with its settings"
    assert applied(study)[-1] == gone
    trial.mkdir(parents=True)
    take_over(trial, stage_key(stages.identity.entry, {"train.lr_head": rate}))
    assert applied(study)[-1] == "`dvc repro` takes the model of trial 0, it is not trained again"
    assert given == [(Path.cwd(), stages.identity.entry, {"train.lr_head": rate}, folder)]
    stages.set(data="other")
    made = "the model of trial 0 was made from other code, data or settings: `dvc repro` trains"
    assert made in applied(study)[-1]
    assert len(given) == 1


def test_a_trial_is_written_into_params_and_the_difference_is_said(ended, tiny_params):
    study, _, _ = ended
    rate = study.standings()[1].params["train.lr_head"]
    before = Path("params.yaml").read_text().splitlines()
    difference, _ = applied(study, 1)
    after = Path("params.yaml").read_text().splitlines()
    (changed,) = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert after[changed] == before[changed].replace("lr_head: 0.05,", f"lr_head: {rate},")
    lines = difference.splitlines()
    assert lines[:2] == ["--- a/params.yaml", "+++ b/params.yaml"]
    assert [line for line in lines[2:] if line[0] in "+-"] == [f"-{before[changed]}", f"+{after[changed]}"]
    assert applied(study, 1)[0] == "params.yaml has these values already"


def test_what_cannot_be_applied_leaves_everything_as_it_was(ended, stages, monkeypatch):
    study, _, _ = ended
    before = Path("params.yaml").read_bytes()
    with pytest.raises(StudyError, match="trial 3 is not complete; complete: 0, 1"):
        applied(study, 3)
    del stages.identity.entry["params"]["params.yaml"]["train"]
    with pytest.raises(ConfigError, match="train.lr_head: the stage does not depend on this parameter"):
        applied(study)
    stages.identity = None
    with pytest.raises(StudyError, match="the train stage has no key here"):
        applied(study)
    monkeypatch.undo()
    monkeypatch.chdir(study.storage.url.removeprefix("sqlite:///").rpartition("/")[0])
    with pytest.raises(StudyError, match="params.yaml: "):
        applied(study)
    assert Path("params.yaml").read_bytes() == before
