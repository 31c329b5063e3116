import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

import drtune
from drtune.base.errors import StudyError
from drtune.studies import supervisor
from drtune.studies.supervisor import Crew, supervise

PROJECT = str(Path(drtune.__file__).parents[1])
PASSWORD = "v3ry-s3cret"
STORAGE = f"postgresql+psycopg://me:{PASSWORD}@h/d"
NOTE = """
import json, os, signal, sys, time
from pathlib import Path
names = "OPTUNA_STORAGE", "CUDA_VISIBLE_DEVICES", "DRTUNE_SUPERVISOR"
note = {"pid": os.getpid(), "argv": sys.argv[1:], **{name: os.environ.get(name) for name in names}}
note["command"] = Path("/proc/self/cmdline").read_text()
with open("started", "a") as started:
    started.write(json.dumps(note) + "\\n")
"""
SUPERVISES = f"""
import sys
from pathlib import Path
sys.path.insert(0, {PROJECT!r})
from drtune.studies import supervisor
from drtune.runs.lifecycle import stopping
supervisor.MODULE = sys.argv[1]
with stopping():
    supervisor.supervise(supervisor.Crew("s", sys.argv[2], 2, (), None, Path("logs")), lambda: None)
"""


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """A crew whose workers run a piece of code; it notes in `started` who they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "MODULE", "stub")
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)

    def make(code, workers=1, gpus=(), until=None):
        (tmp_path / "stub.py").write_text(NOTE + code)
        return Crew("s", STORAGE, workers, gpus, until, tmp_path / "logs")

    return make


@pytest.fixture
def started(tmp_path):
    def read():
        path = tmp_path / "started"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def nothing():
    pass


def test_a_worker_gets_the_study_by_its_arguments_and_the_address_by_its_environment(crew, started):
    news = []
    supervise(crew("", until=1234.5), lambda: news.append("told"))
    (worker,) = started()
    assert worker["argv"] == ["s", "1234.5"]
    assert worker["OPTUNA_STORAGE"] == STORAGE
    assert worker["DRTUNE_SUPERVISOR"] == str(os.getpid())
    assert PASSWORD not in worker["command"]
    assert news == ["told"]
    supervise(crew(""), nothing)
    assert started()[1]["argv"] == ["s"]


@pytest.mark.parametrize(
    ("gpus", "seen"), [(("0", "3"), ["0", "0", "3", "3"]), (("1",), ["1"] * 4), ((), ["7"] * 4)]
)
def test_gpus_are_shared_in_turn(crew, started, monkeypatch, gpus, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    supervise(crew("", workers=4, gpus=gpus), nothing)
    assert sorted(worker["CUDA_VISIBLE_DEVICES"] for worker in started()) == seen


def test_news_is_told_while_the_workers_work(crew, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "NEWS_SECONDS", 0.05)
    news = []

    def told():
        news.append(time.monotonic())
        if len(news) == 3:
            (tmp_path / "go").touch()

    supervise(crew("while not Path('go').exists(): time.sleep(0.01)"), told)
    assert len(news) > 3
    assert news[1] - news[0] >= 0.05


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(143)", "sys.exit(130)"])
def test_a_killed_worker_is_replaced_on_the_same_gpu(crew, started, tmp_path, end):
    code = f"""
if os.environ["CUDA_VISIBLE_DEVICES"] == "1" and not Path("second").exists():
    Path("second").touch()
    {end}
print("through")
"""
    supervise(crew(code, workers=2, gpus=("0", "1")), nothing)
    assert sorted(worker["CUDA_VISIBLE_DEVICES"] for worker in started()) == ["0", "1", "1"]
    assert [(tmp_path / "logs" / f"worker-{place}.log").read_text() for place in (0, 1)] == ["through\n"] * 2


def test_workers_that_are_killed_again_and_again_end_the_study(crew, started, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "RESTARTS", 2)
    with pytest.raises(StudyError) as caught:
        supervise(crew("os.kill(os.getpid(), signal.SIGKILL)"), nothing)
    log = tmp_path / "logs" / "worker-0.log"
    assert str(caught.value) == f"study 's': workers were killed 3 times, last with -9; see {log}"
    assert len(started()) == 3


def test_a_fault_ends_the_study_with_the_worker_s_last_lines(crew, started, tmp_path):
    code = f"""
if os.environ["CUDA_VISIBLE_DEVICES"] == "0":
    def told(*_):
        Path("told").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, told)
    Path("ready").touch()
    time.sleep(600)
while not Path("ready").exists():
    time.sleep(0.01)
for line in range(30):
    print("line", line)
print("storage {STORAGE}: cannot be used")
sys.exit(1)
"""
    with pytest.raises(StudyError) as caught:
        supervise(crew(code, workers=2, gpus=("0", "1")), nothing)
    head, *lines = str(caught.value).split("\n")
    assert head == "worker 1 ended with 1:"
    shown = "  storage postgresql+psycopg://h/d: cannot be used"
    assert lines == [f"  line {line}" for line in range(19, 30)] + [shown]
    assert (tmp_path / "told").exists()
    assert all(gone(worker["pid"]) for worker in started())


def test_a_worker_that_does_not_stop_is_killed(crew, started, monkeypatch):
    monkeypatch.setattr(supervisor, "END_SECONDS", 0.3)
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); Path('ready').touch(); time.sleep(600)"

    def stop_when_ready():
        if Path("ready").exists():
            raise SystemExit(143)

    monkeypatch.setattr(supervisor, "NEWS_SECONDS", 0.0)
    with pytest.raises(SystemExit):
        supervise(crew(code), stop_when_ready)
    assert gone(started()[0]["pid"])


def test_a_worker_that_cannot_be_started_ends_those_that_were(crew, started, monkeypatch, wait_for):
    start = supervisor.start

    def start_one(crew, place):
        if place == 1:
            wait_for(started)
            raise OSError("no more processes")
        return start(crew, place)

    monkeypatch.setattr(supervisor, "start", start_one)
    with pytest.raises(OSError, match="no more processes"):
        supervise(crew("time.sleep(600)", workers=2), nothing)
    assert gone(started()[0]["pid"])


# --- with real trials


def attempts_of(notes, first):
    return [note for note in notes("begin") if note[1] == first]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's death")
def test_after_the_supervisor_is_killed_exactly_the_missing_trials_are_made(
    make_study, sqlite_url, spawn, toy_worker, notes, wait_for, tmp_path
):
    make_study(trials=6)
    for first in (2, 3):
        (tmp_path / f"hold-{first}").touch()
    killed = spawn(SUPERVISES, "toy_worker", sqlite_url)
    wait_for(lambda: attempts_of(notes, 2) and attempts_of(notes, 3), seconds=180)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    workers = {pid for *_, pid in notes("begin")}
    assert len(workers) == 2
    wait_for(lambda: all(gone(pid) for pid in workers))
    assert len(notes("end")) == 2

    for first in (2, 3):
        (tmp_path / f"hold-{first}").unlink()
    again = make_study(trials=6)
    waiting = [(trial.first, trial.state) for trial in again.standings() if trial.state != "COMPLETE"]
    assert waiting == [(2, "WAITING"), (3, "WAITING")]
    assert spawn(toy_worker, "s", OPTUNA_STORAGE=sqlite_url).wait() == 0
    assert [trial.state for trial in again.standings()] == ["COMPLETE"] * 6
    trained = sorted(first for _, first, *_ in notes("end"))
    assert trained == sorted(trial.first for trial in again.standings())
    assert len({(trial.params["a"], trial.params["b"]) for trial in again.standings()}) == 6
    assert len(again.trials()) == 8


def test_a_stopped_supervisor_stops_its_workers_and_a_killed_worker_is_replaced(
    make_study, sqlite_url, spawn, toy_worker, notes, wait_for, tmp_path
):
    made = make_study(trials=3)
    (tmp_path / "hold-0").touch()
    running = spawn(SUPERVISES, "toy_worker", sqlite_url)
    ((*_, pid),) = wait_for(lambda: attempts_of(notes, 0), seconds=180)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(attempts_of(notes, 0)) == 2, seconds=180)
    running.kill(signal.SIGTERM)
    assert running.wait() == 128 + signal.SIGTERM
    assert all(gone(pid) for *_, pid in notes("begin"))
    (tmp_path / "hold-0").unlink()
    assert spawn(toy_worker, "s", OPTUNA_STORAGE=sqlite_url).wait() == 0
    assert [trial.state for trial in made.standings()] == ["COMPLETE"] * 3
    assert len(attempts_of(notes, 0)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's death")
def test_a_worker_whose_supervisor_died_while_it_loaded_does_not_begin(spawn, tmp_path, started, wait_for):
    code = f"""
sys.path.insert(0, {PROJECT!r})
from drtune.studies.process import end_with_supervisor
while not Path("go").exists():
    time.sleep(0.01)
end_with_supervisor()
Path("begun").touch()
"""
    (tmp_path / "stub.py").write_text(NOTE + code)
    killed = spawn(SUPERVISES, "stub", STORAGE)
    wait_for(lambda: len(started()) == 2)
    killed.kill()
    killed.wait()
    (tmp_path / "go").touch()
    wait_for(lambda: all(gone(worker["pid"]) for worker in started()))
    assert not (tmp_path / "begun").exists()
