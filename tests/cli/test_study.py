import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from drtune.base.errors import ConfigError, StudyError
from drtune.cli.main import app
from drtune.runs.lifecycle import Stopped
from drtune.studies import launch, winner

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage is supposed"
)
NONE = "there is no study yet; `drtune study run` makes one"
PROCESS = {"proc.host": "host", "proc.pid": "17"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder, a project without a study."""
    for name in ("OPTUNA_STORAGE", "DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def studies(project, new_study):
    """Study `one` with two complete trials; study `two`, made last, with two objectives and two best ones."""
    one, two = new_study("one"), new_study("two", cost="seconds")
    for value in (0.5, 0.75):
        one.next(PROCESS).complete([value])
        two.next(PROCESS).complete([value, 4 * value])
    return project


def said(*words, code=0):
    result = CliRunner().invoke(app, ["study", *words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize("command", ["resume", "status", "list", "apply", "export", "dashboard"])
def test_without_a_study_it_says_how_to_make_one_and_makes_nothing(project, command):
    before = sorted(project.rglob("*"))
    assert said(command, code=2).strip() == NONE
    assert said(command, "--storage", "sqlite:///other.db", code=2).strip() == NONE
    assert sorted(project.rglob("*")) == before


def test_a_storage_without_a_study_is_listed_as_such(project, empty_storage):
    assert said("list", "--storage", f"sqlite:///{empty_storage}").strip() == NONE
    assert said("status", "--storage", f"sqlite:///{empty_storage}", code=2).strip() == NONE


@pytest.mark.parametrize("command", ["resume", "status", "apply", "export"])
def test_an_unknown_name_is_answered_with_the_known_ones(studies, command):
    text = said(command, "three", code=2)
    assert text.strip() == "study 'three': there is no such study; there are: one, two"


@pytest.mark.parametrize("command", ["run", "resume", "status", "list", "apply", "export", "dashboard"])
@pytest.mark.parametrize(
    ("storage", "text"),
    [
        (
            "mysql://me:s3cret@host/db",
            "storage mysql://host/db: no storage for studies; allowed: sqlite:///FILE",
        ),
        (
            "postgresql+psycopg://me:s3cret@127.0.0.1:1/db",
            "start the database, or name another with --storage",
        ),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(
    project, tiny_params, monkeypatch, command, storage, text
):
    (project / "images").mkdir()
    tiny_params(project / "params.yaml", {"study.trials": 2, "study.space": {"train.epochs": [1, 2]}})
    for words, environment in ((["--storage", storage], ""), ([], storage)):
        monkeypatch.setenv("OPTUNA_STORAGE", environment)
        output = said(command, *words, code=2)
        assert text in output
        assert "s3cret" not in output


def test_the_newest_study_is_meant_without_a_name(studies):
    assert said("status").startswith("study two: 3 trials: 2 complete\n")
    assert said("status", "one").startswith("study one: 3 trials: 2 complete\n")
    assert said("list").splitlines() == ["one: 3 trials: 2 complete", "two: 3 trials: 2 complete"]


def test_status_says_how_to_take_the_best(studies):
    assert "`drtune study apply one` writes trial 1 into params.yaml" in said("status", "one")
    assert "best trade-offs: trials 0, 1; `drtune study apply two --trial 0`" in said("status", "two")


def test_of_several_best_trials_one_must_be_chosen(studies):
    before = sorted(studies.iterdir())
    text = said("apply", code=2)
    assert "study 'two': has two objectives, no trial is best in both; choose one with --trial: 0, 1" in text
    assert "trial 2 is not complete; complete: 0, 1" in said("apply", "two", "--trial", "2", code=2)
    assert sorted(studies.iterdir()) == before


def test_a_study_without_a_complete_trial_cannot_be_applied(project, new_study):
    new_study("one")
    assert "no trial is complete yet; `drtune study resume one`" in said("apply", code=2)


def test_apply_writes_the_trial_that_is_asked_for(studies, monkeypatch):
    asked = []
    monkeypatch.setattr(
        winner, "apply_trial", lambda root, study, *rest: asked.append((root, study.name, *rest))
    )
    said("apply", "one")
    said("apply", "--trial", "1", "--force")
    assert [(root, name, trial, force) for root, name, trial, force, _ in asked] == [
        (studies, "one", None, False),
        (studies, "two", 1, True),
    ]


def test_apply_refuses_where_git_does_not_have_the_settings(studies, tiny_params):
    tiny_params(studies / "params.yaml")
    before = (studies / "params.yaml").read_bytes()
    assert "or apply with --force" in said("apply", "one", code=2)
    assert (studies / "params.yaml").read_bytes() == before


def test_export_writes_small_json_for_git(studies):
    assert said("export").strip() == "studies/two.json"
    found = json.loads(Path("studies/two.json").read_text())
    assert (found["name"], found["best"]) == ("two", [0, 1])
    assert said("export", "one", "--out", "elsewhere/one.json").strip() == "elsewhere/one.json"
    assert json.loads(Path("elsewhere/one.json").read_text())["best"] == [1]
    first = Path("studies/two.json").read_bytes()
    said("export", "two")
    assert Path("studies/two.json").read_bytes() == first


@pytest.fixture
def orders(monkeypatch):
    """What `run_study` is asked for; it returns a study that is there, or raises."""

    class Orders(list):
        answer = None

    made = Orders()

    def run_study(root, order, say):
        made.append((root, order))
        say("begun")
        if isinstance(made.answer, BaseException):
            raise made.answer
        return made.answer

    monkeypatch.setattr(launch, "run_study", run_study)
    return made


def test_run_hands_on_what_is_typed_and_ends_with_how_the_study_stands(project, new_study, orders):
    orders.answer = new_study("one")
    words = ["--name", "one", "--trials", "5", "--timeout", "60", "--workers", "2", "--gpus", "0,1"]
    text = said("run", *words, "--storage", "sqlite:///x.db")
    ((root, order),) = orders
    assert root == project
    assert order == launch.Order("one", 5, 60.0, 2, ["0", "1"], "sqlite:///x.db")
    assert text.startswith("begun\nstudy one: 3 trials: 1 waiting\n")
    said("run")
    assert orders[1][1] == launch.Order("", None, None, 1, [], "")


def test_resume_goes_on_to_the_limit_that_the_study_has(studies, new_study, orders):
    orders.answer = new_study("one")
    said("resume", "one", "--workers", "2")
    assert orders[0][1] == launch.Order("one", 3, None, 2, [], "")
    said("resume")
    assert orders[1][1].name == "two"


@pytest.mark.parametrize(
    ("fault", "code"),
    [(ConfigError("params.yaml: 1 fault"), 2), (StudyError("worker 0 ended with 1"), 2), (Stopped(15), 143)],
)
def test_a_run_that_fails_says_so_by_its_exit_code(project, orders, fault, code):
    orders.answer = fault
    text = said("run", code=code)
    assert text.splitlines() == ["begun", *([str(fault)] if code == 2 else [])]


@pytest.mark.parametrize(
    "words", [["--trials", "0"], ["--workers", "0"], ["--timeout", "-1"], ["--trials", "many"]]
)
def test_what_cannot_be_meant_is_refused(project, orders, words):
    assert "Invalid value" in said("run", *words, code=2)
    assert orders == []


def test_the_dashboard_is_served_on_this_machine_alone(studies, monkeypatch):
    asked = []

    def run_server(storage, **named):
        asked.append((storage.url, named))
        if named["port"] == 80:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=run_server))
    said("dashboard", "--port", "8123")
    url = f"sqlite:///{studies}/.drtune/optuna.db"
    assert asked == [(url, {"host": "127.0.0.1", "port": 8123})], "no address with a password"
    refused = said("dashboard", "--port", "80", code=2)
    assert refused.strip() == "port 80: Permission denied; choose another with --port"


def test_the_dashboard_says_what_to_install(studies, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert "pip install 'drtune-pipeline[dashboard]'" in said("dashboard", code=2)


def test_help_is_quick():
    heavy = "{'torch', 'optuna', 'mlflow', 'dvc', 'sqlalchemy'}"
    code = f"import sys; import drtune.cli.main; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    commands = {"run", "resume", "status", "list", "apply", "export", "dashboard"}
    assert commands <= set(said("--help").split())
