import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from drtune.base.errors import BankError, ConfigError
from drtune.runs import runner as module
from drtune.runs.lifecycle import exclusive
from drtune.runs.runner import checkpoints_of, downloads_of, run_stage, tell_of_changes
from drtune.runs.stage_key import StageIdentity, store_root

ROOT = Path(__file__).resolve().parents[2]
KEY = StageIdentity("ab" * 32, {"data/dataset": "cd.dir", "pipeline/train.py": "ef"}, ("models",))


class Run:
    """What run_stage itself does with a run."""

    link = "http://127.0.0.1/run"
    log_metrics = log_artifact = None

    def log_params(self, params):
        self.params = params

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


@pytest.fixture
def run_work(monkeypatch):
    """Run a stage whose `main` is `work(report, params)`."""

    def begin(work, name="train"):
        stand_in = SimpleNamespace(main=lambda params, report: work(report, params))
        monkeypatch.setattr(module, "import_module", {f"pipeline.{name}": stand_in}.__getitem__)
        run_stage([name])

    return begin


@pytest.fixture
def ended(run_work):
    """Run a stage that ends its process, and return the exit code."""

    def begin(work):
        with pytest.raises(SystemExit) as end:
            run_work(work)
        return end.value.code

    return begin


def test_work_gets_settings_run_and_a_folder_of_its_own(run, capsys, run_work):
    def work(report, params):
        assert params.method("dr_tune").bank_size == 16
        assert report.run is run
        assert report.checkpoints == running()
        assert (report.checkpoints / "lock").read_text() == f"{os.getpid()}\n"

    run_work(work)
    assert run.opened == ("drtune", "train", KEY, "dr_tune", True)
    assert run.status == "FINISHED"
    assert run.held == (KEY, Path.cwd(), "train")
    assert capsys.readouterr().out == "device: cpu\ntrain: http://127.0.0.1/run\n"


def test_a_run_is_named_after_its_stage_and_its_data_or_method(run, run_work):
    run_work(lambda report, params: None, "download")
    assert run.opened[1:4:2] == ("download", "images")


def test_dvc_s_name_of_the_stage_is_taken(run, monkeypatch, capsys, run_work):
    monkeypatch.setenv("DVC_STAGE", "pretrain/dvc.yaml:train@big")
    run_work(lambda report, params: None)
    assert run.opened[1] == "train@big"
    assert "\ntrain@big: " in capsys.readouterr().out


def test_success_removes_the_running_state_and_nothing_else(run, run_work):
    other = running("other")
    other.mkdir(parents=True)
    (other / "state.pt").write_text("of another training")

    def work(report, params):
        (report.checkpoints / "state.pt").write_text("state")
        (report.checkpoints / ".state.pt.half").mkdir()
        Path("models").mkdir()
        assert run.status == "FAILED", "the state must outlive the work until the run is closed"

    run_work(work)
    assert not running().exists()
    assert (other / "state.pt").read_text() == "of another training"
    assert Path("models").is_dir()


def test_the_state_is_kept_until_the_run_is_closed(run, monkeypatch, ended):
    @contextmanager
    def killed_while_closing(*_, **__):
        yield run
        raise SystemExit(143)

    monkeypatch.setattr(module, "stage_run", killed_while_closing)
    assert ended(lambda report, params: (report.checkpoints / "state.pt").write_text("state")) == 143
    assert (running() / "state.pt").is_file()


def test_a_fault_keeps_the_running_state_and_the_next_start_finds_it(run, run_work, ended):
    def fail(report, params):
        (report.checkpoints / "state.pt").write_text("epoch 3")
        raise BankError("no bank")

    assert ended(fail) == 1
    assert (running() / "state.pt").read_text() == "epoch 3"
    found = []
    run_work(lambda report, params: found.append((report.checkpoints / "state.pt").read_text()))
    assert found == ["epoch 3"]


def test_a_fault_before_any_state_leaves_no_folder(run, ended):
    def fail(report, params):
        raise BankError("no bank")

    assert ended(fail) == 1
    assert not running().exists()


def test_without_a_key_a_state_of_unknown_origin_is_not_used(run, identity, run_work):
    identity.value = None
    state = running("by-hand-train") / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_text("of other settings")

    def work(report, params):
        assert report.checkpoints == state.parent
        assert not state.exists()
        state.write_text("of these settings")

    run_work(work)
    assert run.held[0] is None
    assert not state.parent.exists()


@pytest.mark.parametrize(("fault", "code"), [(ConfigError("x: unknown"), 2), (BankError("old bank"), 1)])
def test_faults_of_the_user_are_told_in_words(run, capsys, fault, code, ended):
    def fail(report, params):
        raise fault

    assert ended(fail) == code
    assert run.status == "FAILED"
    assert capsys.readouterr().err == f"train: {fault}\n"


def test_running_out_of_memory_is_told_in_words(run, capsys, ended):
    def fail(report, params):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert ended(fail) == 1
    assert run.status == "FAILED"
    said = (
        "train: out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB. Remedy: lower train.batch_"
    )
    assert capsys.readouterr().err.startswith(said)


def test_a_device_that_is_not_there_is_refused_before_the_work(run, ended, folder, tiny_params, capsys):
    tiny_params(folder / "params.yaml", {"runtime.device": "mps"})
    assert ended(lambda report, params: pytest.fail("it began")) == 2
    assert "train: runtime.device: mps: PyTorch finds no Apple GPU here" in capsys.readouterr().err


def test_a_download_loads_no_pytorch_for_a_device(run, run_work, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "drtune.base.device", None)
    run_work(lambda report, params: None, "download")
    assert "device" not in capsys.readouterr().out


def test_a_bug_keeps_its_traceback(run, run_work):
    def fail(report, params):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_work(fail)
    assert run.status == "FAILED"


def test_a_signal_ends_with_the_shell_s_code_and_keeps_the_state(run, ended):
    def work(report, params):
        (report.checkpoints / "state.pt").write_text("state")
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert ended(work) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert run.status == "FAILED"
    assert (running() / "state.pt").is_file()


def test_a_second_process_of_the_key_is_refused_before_it_opens_a_run(run, capsys, ended):
    with exclusive(running()):
        (running() / "state.pt").write_text("of the first")
        assert ended(lambda report, params: pytest.fail("two at once")) == 1
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
        "methods.dr_tune.temprature",
        "methods.dr_tune.temperature",
    ]
    assert "expected an integer >= 1, got '100' (text)" in shown.err
    assert "did you mean temperature?" in shown.err
    assert sorted(folder.rglob("*")) == before


def test_without_settings_the_remedy_is_told(run, capsys, ended):
    Path("params.yaml").unlink()
    assert ended(lambda report, params: None) == 2
    assert "params.yaml: no such file; run from the folder that holds dvc.yaml" in capsys.readouterr().err
    assert not Path(".drtune").exists()


def test_what_outlives_a_stage_lies_in_the_store_root(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert downloads_of(store_root()) == tmp_path / ".drtune/downloads"
    assert checkpoints_of(store_root(), "ab12") == tmp_path / ".drtune/ckpt/ab12"


def test_a_temporary_experiment_shares_them_with_its_workspace(tmp_path, monkeypatch):
    (tmp_path / "temporary/.dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "workspace"))
    assert downloads_of(store_root()) == tmp_path / "workspace/.drtune/downloads"
    assert checkpoints_of(store_root(), "ab12") == tmp_path / "workspace/.drtune/ckpt/ab12"


def test_outside_dvc_they_lie_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints_of(store_root(), "by-hand-train") == tmp_path / ".drtune/ckpt/by-hand-train"


def test_what_a_run_keeps_and_leaves_out_is_said(capsys):
    names = tuple(f"{i:02}.txt" for i in range(23))
    patch = "diff --git a/code.py b/code.py\n--- a/code.py\n+diff --git a/x b/x\n"
    tell_of_changes(SimpleNamespace(commit="0123456789", patch=patch, left_out=names))
    kept, left = capsys.readouterr().out.splitlines()
    assert kept == "changed since 0123456, kept with the run: code.py"
    assert left.startswith("changed since 0123456, left out, no code or may hold a key: 00.txt, 01.txt")
    assert left.endswith("19.txt and 3 more")


LATE = """
import atexit, os, runpy, signal, sys
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv = ["pipeline", "nonsense"]
runpy.run_module("pipeline", run_name="__main__")
"""


def test_a_ctrl_c_after_the_work_is_not_swallowed():
    # Python would ignore it at its own end, and `dvc repro` would go on with the next stage
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert "'nonsense' is no stage" in done.stderr
    assert "KeyboardInterrupt" not in done.stderr
