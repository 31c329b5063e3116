import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

import drtune
from drtune.base.errors import TrainingError
from drtune.runs import lifecycle
from drtune.runs.lifecycle import Stopped, clear, exclusive, stopping

PROJECT = str(Path(drtune.__file__).parents[1])


def python(code, *arguments, **kwargs):
    head = f"import sys; sys.path.insert(0, {PROJECT!r})\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **kwargs)


def gone(pid, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's death")
def test_a_stage_dies_with_its_parent():
    child = "import time; from drtune.runs.lifecycle import die_with_parent; die_with_parent(); "
    child += "print('ready', flush=True); time.sleep(60)"
    parent = python(
        """
        import subprocess, time
        code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); {sys.argv[1]}"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
        """,
        child,
    )
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_and_old_handlers_come_back(signum):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped) as caught, stopping():
        signal.raise_signal(signum)
    assert caught.value.signal is signum
    assert caught.value.code == 128 + signum
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_library_that_swallows_exceptions_does_not_swallow_a_stop():
    assert not issubclass(Stopped, Exception)


def test_uncaught_it_ends_the_process_with_the_shell_s_code():
    process = python(
        "import signal; from drtune.runs.lifecycle import stopping\n"
        "with stopping(): signal.raise_signal(signal.SIGTERM)",
        stderr=subprocess.PIPE,
    )
    _, errors = process.communicate()
    assert (process.returncode, errors) == (143, "")


def test_clean_up_is_cut_short_by_ctrl_c_alone():
    steps = []

    def stop_thrice():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned")
            signal.raise_signal(signal.SIGINT)
            steps.append("not reached")

    with pytest.raises(Stopped) as caught, stopping():
        stop_thrice()
    assert steps == ["cleaned"]
    assert caught.value.signal is signal.SIGINT


def test_in_another_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_forked_worker_leaves_ctrl_c_to_its_parent():
    process = python(
        """
        import os, signal, time
        from drtune.runs.lifecycle import stopping
        def forked(signum):
            pid = os.fork()
            if pid == 0:
                signal.raise_signal(signum)
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with stopping():
            print(forked(signal.SIGINT), forked(signal.SIGTERM))
        """
    )
    assert process.communicate()[0].split() == ["7", "-15"]


def test_a_folder_is_held_alone(tmp_path):
    folder = tmp_path / "ckpt/key"
    with exclusive(folder):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"
        message = rf"key: another process of this key is alive, pid {os.getpid()};.*`kill {os.getpid()}`"
        with pytest.raises(TrainingError, match=message), exclusive(folder):
            pass
        with exclusive(tmp_path / "ckpt/other"):
            pass
    with exclusive(folder):
        pass


def test_an_empty_folder_goes_with_its_holder_and_a_state_stays(tmp_path):
    folder = tmp_path / "ckpt/key"
    with exclusive(folder):
        pass
    assert not folder.exists()
    with exclusive(folder):
        (folder / "state.pt").write_text("epoch 3")
    assert (folder / "state.pt").read_text() == "epoch 3"
    with exclusive(folder):
        (folder / ".state.pt.cut/short").mkdir(parents=True)
        clear(folder)
        assert [path.name for path in folder.iterdir()] == ["lock"]
    assert list((tmp_path / "ckpt").iterdir()) == []


@pytest.mark.parametrize("step", ["mkdir", "open", "lock"])
def test_a_folder_that_its_holder_removes_meanwhile_is_made_anew(tmp_path, monkeypatch, step):
    folder, holder = tmp_path / "key", ExitStack()
    holder.enter_context(exclusive(folder))

    def leaving_before(original):
        def wrapped(*arguments, **kwargs):
            holder.close()
            return original(*arguments, **kwargs)

        return wrapped

    owner, name = {"mkdir": (Path, "mkdir"), "open": (os, "open"), "lock": (lifecycle.fcntl, "flock")}[step]
    monkeypatch.setattr(owner, name, leaving_before(getattr(owner, name)))
    with exclusive(folder):
        monkeypatch.undo()
        with pytest.raises(TrainingError, match=f"pid {os.getpid()};"), exclusive(folder):
            pytest.fail("two hold the folder")
    assert not folder.exists()


def test_a_killed_holder_frees_the_folder_although_its_worker_lives(tmp_path):
    holder = python(
        """
        import os, time
        from pathlib import Path
        from drtune.runs.lifecycle import exclusive
        with exclusive(Path(sys.argv[1])):
            pid = os.fork()
            if pid == 0:
                print(os.getpid(), flush=True)  # only now has the worker let go of the lock
            time.sleep(60)
        """,
        tmp_path,
    )
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(TrainingError, match=f"pid {holder.pid};"), exclusive(tmp_path):
            pass
        holder.kill()
        holder.wait()
        assert psutil.pid_exists(worker)
        with exclusive(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


ORPHAN = """
import os, subprocess, sys
code = (
    "import sys; sys.path.insert(0, sys.argv[1]); from drtune.runs.lifecycle import die_with_parent; "
    "print('up', flush=True); sys.stdin.readline(); die_with_parent(); print('lives', flush=True)"
)
child = subprocess.Popen(
    [sys.executable, "-c", code, sys.path[0]], stdin=0, env={**os.environ, "DVC_STAGE": "train"}
)
if sys.argv[1] == "dies":
    os._exit(0)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="process groups of orphans as on Linux")
@pytest.mark.parametrize(("parent", "said"), [("dies", "up\n"), ("lives", "up\nlives\n")])
def test_a_stage_whose_dvc_died_while_it_was_loading_stops(parent, said):
    process = python(ORPHAN, parent, stdin=subprocess.PIPE, start_new_session=True)
    if parent == "dies":
        process.wait()
    output, _ = process.communicate("go\n", timeout=60)
    assert output == said


def test_a_script_that_dvc_did_not_start_has_no_parent_to_lose(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(os, "getpgid", lambda pid: pid)
    assert not lifecycle.parent_is_gone()
    monkeypatch.setenv("DVC_STAGE", "train")
    assert lifecycle.parent_is_gone()


@pytest.mark.parametrize("link", ["ckpt", "ckpt/lock"])
def test_a_link_is_not_locked(link, tmp_path):
    prey = tmp_path / "prey"
    if link == "ckpt":
        prey.mkdir()
    else:
        (tmp_path / "ckpt").mkdir()
        prey.write_text("kept")
    (tmp_path / link).symlink_to(prey)
    refused = pytest.raises(TrainingError, match="is a link, which is not followed; remove it and run again")
    with refused, exclusive(tmp_path / "ckpt"):
        pass
    assert list(prey.iterdir()) == [] if prey.is_dir() else prey.read_text() == "kept"
