import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtune.base.errors import BankError, ConfigError
from drtune.params import SETTINGS
from drtune.runs import runner as module
from drtune.runs.lifecycle import exclusive
from drtune.runs.runner import run_stage
from drtune.runs.stage_key import StageIdentity

KEY = StageIdentity("ab" * 32, {"data/dataset": "cd.dir", "pipeline/train.py": "ef"}, ("models",))


class Run:
    """What run_stage itself does with a run."""

    link = "http://127.0.0.1/run"

    def __init__(self):
        self.status, self.opened, self.held = "", (), ()


@pytest.fixture
def identity():
    """Change `.value` to run a stage without a key."""

    class Identity:
        value = KEY

    return Identity


@pytest.fixture
def run(folder, identity, monkeypatch):
    """A stage's life in the current folder without DVC and MLflow."""
    made = Run()

    @contextmanager
    def stage_run(project, stage, record, key, *, lock, suffix, resume, system_metrics):
        assert lock == Path("dvc.lock")
        assert system_metrics
        made.opened = (project, stage, key, suffix, resume)
        made.status = "FAILED"
        yield made
        made.status = "FINISHED"

    @contextmanager
    def holding(opened, record, key, folder, stage):
        assert opened is made
        assert record.commit == ""
        made.held = (key, folder, stage)
        yield

    monkeypatch.setattr(module, "die_with_parent", lambda: None)
    monkeypatch.setattr(module, "current_stage_key", lambda root, stage: identity.value)
    monkeypatch.setattr(module, "stage_run", stage_run)
    monkeypatch.setattr(module, "holding", holding)
    return made


def running(key=KEY.key):
    return Path.cwd() / ".drtune/ckpt" / key


def ended(work, methods=None):
    with pytest.raises(SystemExit) as end:
        run_stage("train", work, methods)
    return end.value.code


def test_work_gets_settings_run_and_a_folder_of_its_own(run, capsys):
    def work(stage):
        assert stage.params.method("dr_tune").bank_size == 16
        assert stage.run is run
        assert stage.checkpoints == running()
        assert (stage.checkpoints / "lock").read_text() == f"{os.getpid()}\n"

    run_stage("train", work, SETTINGS)
    assert run.opened == ("drtune", "train", KEY, "dr_tune", True)
    assert run.status == "FINISHED"
    assert run.held == (KEY, Path.cwd(), "train")
    assert capsys.readouterr().out == "train: http://127.0.0.1/run\n"


def test_a_run_is_named_after_its_stage_and_its_data_or_method(run):
    run_stage("download", lambda stage: None)
    assert run.opened[1:4:2] == ("download", "folder")


def test_dvc_s_name_of_the_stage_is_taken(run, monkeypatch, capsys):
    monkeypatch.setenv("DVC_STAGE", "pretrain/dvc.yaml:train@big")
    run_stage("train", lambda stage: None)
    assert run.opened[1] == "train@big"
    assert capsys.readouterr().out.startswith("train@big: ")


def test_success_removes_the_running_state_and_nothing_else(run):
    other = running("other")
    other.mkdir(parents=True)
    (other / "state.pt").write_text("of another training")

    def work(stage):
        (stage.checkpoints / "state.pt").write_text("state")
        (stage.checkpoints / ".state.pt.half").mkdir()
        Path("models").mkdir()
        assert run.status == "FAILED", "the state must outlive the work until the run is closed"

    run_stage("train", work)
    assert not running().exists()
    assert (other / "state.pt").read_text() == "of another training"
    assert Path("models").is_dir()


def test_the_state_is_kept_until_the_run_is_closed(run, monkeypatch):
    @contextmanager
    def killed_while_closing(*_, **__):
        yield run
        raise SystemExit(143)

    monkeypatch.setattr(module, "stage_run", killed_while_closing)
    assert ended(lambda stage: (stage.checkpoints / "state.pt").write_text("state")) == 143
    assert (running() / "state.pt").is_file()


def test_a_fault_keeps_the_running_state_and_the_next_start_finds_it(run):
    def fail(stage):
        (stage.checkpoints / "state.pt").write_text("epoch 3")
        raise BankError("no bank")

    assert ended(fail) == 1
    assert (running() / "state.pt").read_text() == "epoch 3"
    found = []
    run_stage("train", lambda stage: found.append((stage.checkpoints / "state.pt").read_text()))
    assert found == ["epoch 3"]


def test_a_fault_before_any_state_leaves_no_folder(run):
    def fail(stage):
        raise BankError("no bank")

    assert ended(fail) == 1
    assert not running().exists()


def test_without_a_key_a_state_of_unknown_origin_is_not_used(run, identity):
    identity.value = None
    state = running("by-hand-train") / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_text("of other settings")

    def work(stage):
        assert stage.checkpoints == state.parent
        assert not state.exists()
        state.write_text("of these settings")

    run_stage("train", work)
    assert run.held[0] is None
    assert not state.parent.exists()


@pytest.mark.parametrize(("fault", "code"), [(ConfigError("x: unknown"), 2), (BankError("old bank"), 1)])
def test_faults_of_the_user_are_told_in_words(run, capsys, fault, code):
    def fail(stage):
        raise fault

    assert ended(fail) == code
    assert run.status == "FAILED"
    assert capsys.readouterr().err == f"train: {fault}\n"


def test_a_bug_keeps_its_traceback(run):
    def fail(stage):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_stage("train", fail)
    assert run.status == "FAILED"


def test_a_signal_ends_with_the_shell_s_code_and_keeps_the_state(run):
    def work(stage):
        (stage.checkpoints / "state.pt").write_text("state")
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert ended(work) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert run.status == "FAILED"
    assert (running() / "state.pt").is_file()


def test_a_second_process_of_the_key_is_refused_before_it_opens_a_run(run, capsys):
    with exclusive(running()):
        (running() / "state.pt").write_text("of the first")
        assert ended(lambda stage: pytest.fail("two at once")) == 1
    assert run.status == ""
    assert f"another process of this key is alive, pid {os.getpid()}" in capsys.readouterr().err
    assert (running() / "state.pt").read_text() == "of the first"


def test_faults_in_settings_all_come_at_once_and_nothing_is_written(folder, tiny_params, as_script, capsys):
    change = {"train.epochs": "100", "data.shots": 0, "methods.dr_tune.bank_size": 4}
    file = tiny_params(folder / "params.yaml", change)
    settings = file.read_text()
    own = settings.index("  dr_tune:")
    file.write_text(settings[:own] + settings[own:].replace("temperature:", "temprature:", 1))
    before = sorted(folder.rglob("*"))
    assert as_script("train") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    head, *faults = shown.err.rstrip().splitlines()
    assert head == "train: params.yaml: 4 faults"
    assert [line.split()[0] for line in faults] == [
        "data.shots",
        "train.epochs",
        "methods.dr_tune.temperature",
        "methods.dr_tune.temprature",
    ]
    assert "expected an integer >= 1, got '100' (text)" in shown.err
    assert "did you mean temperature?" in shown.err
    assert sorted(folder.rglob("*")) == before


def test_without_settings_the_remedy_is_told(run, capsys):
    Path("params.yaml").unlink()
    assert ended(lambda stage: None) == 2
    assert "params.yaml: no such file; run from the folder that holds dvc.yaml" in capsys.readouterr().err
    assert not Path(".drtune").exists()
