import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from drtune.base.errors import TrackingError
from drtune.runs.restore import Restored, forget, restore
from drtune.runs.run_store import RunStore, StoredRun
from drtune.runs.verify import (
    Compared,
    allows_tolerance,
    artifact_of,
    as_text,
    compare,
    numbers_of_json,
    relative_distance,
    repeat,
    tensors_of,
    wanted_outs,
)


def test_what_is_repeated_is_equal_and_what_reads_more_differs(toy, tmp_path, monkeypatch, empty_database):
    for name, value in toy.environment.items():
        monkeypatch.setenv(name, value)
    store, (run,) = RunStore(toy.folder), toy.runs()
    there = restore(store, run, tmp_path / "there")
    shutil.copy(empty_database, there.folder / "mlflow.db")  # it takes seconds to make
    before = len(toy.runs())
    wanted, held = wanted_outs(there, upstream=True), artifact_of(store, run, tmp_path)
    assert list(wanted) == ["data/raw", "out", "score.json"]
    (there.folder / "noise").write_text("2")  # the stage reads it, and no dependency names it
    found = compare(there.folder, wanted, repeat(there, upstream=True), None, held)
    assert [(one.path, one.then == one.now, one.within) for one in found] == [
        ("data/raw/numbers.json", True, True),
        ("out/result.json", True, True),
        ("score.json", False, False),
    ]
    assert "differs: 1 of 3 files; 2 of 3 files have the same bytes" in as_text(found, None)
    assert as_text(found[:2], None) == "identical; 2 of 2 files have the same bytes (compared: bytes)"
    assert len(toy.runs()) == before, "the repetition logs into a store of its own"

    (there.folder / "toy_stage.py").write_text("raise SystemExit(3)")
    with pytest.raises(TrackingError, match="stage make: fails in .*there; its output stands above"):
        repeat(there, upstream=False)
    forget(toy.folder, there.folder)
    assert not there.folder.exists()


def test_a_run_that_did_not_end_well_has_nothing_to_compare(tmp_path):
    there = Restored(tmp_path, "make", {"outs": [{"path": "out"}]}, (), ())
    with pytest.raises(
        TrackingError, match="left no results to compare with.*dvc repro --force --single-item make"
    ):
        wanted_outs(there, upstream=False)


@pytest.mark.parametrize(
    ("device", "asked", "allowed"),
    [("1 x NVIDIA H100", "auto", True), ("1 x NVIDIA H100", "cpu", False), ("AMD EPYC 7 x", "auto", False)],
)
def test_only_a_gpu_allows_a_tolerance(device, asked, allowed, monkeypatch):
    monkeypatch.setattr("drtune.runs.verify.device_name", lambda: "some CPU")
    run = StoredRun("r", "train", "FINISHED", 0, "1", {"env.device": device}, {"runtime.device": asked}, {})
    assert allows_tolerance(run) is allowed


def put(cache, data):
    md5 = hashlib.md5(data).hexdigest()
    (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
    (cache / md5[:2] / md5[2:]).write_bytes(data)
    return md5


@pytest.mark.parametrize(("tolerance", "accepted"), [(None, False), (0.001, False), (0.02, True)])
def test_numbers_within_the_tolerance_are_accepted(tmp_path, tolerance, accepted):
    (tmp_path / ".dvc").mkdir()
    then = put(tmp_path / ".dvc/cache/files/md5", b'{"test": {"accuracy": 0.5}}')
    now = b'{"test": {"accuracy": 0.505}}'
    (tmp_path / "m.json").write_bytes(now)
    (tmp_path / "p.png").write_bytes(b"1")
    picture = put(tmp_path / ".dvc/cache/files/md5", b"2")
    md5s = {"m.json": hashlib.md5(now).hexdigest(), "p.png": hashlib.md5(b"1").hexdigest()}
    found = compare(tmp_path, {"m.json": then, "p.png": picture}, md5s, tolerance, lambda name: None)
    assert found[0].distance == pytest.approx(0.005 / 0.505)
    assert (found[0].within, found[1].within) == (accepted, tolerance is not None)


def test_a_file_that_is_gone_never_counts_as_equal(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (one,) = compare(tmp_path, {"a.json": "1" * 32}, {}, 1e9, lambda name: None)
    assert (one.then, one.now, one.within) == ("1" * 32, "", False)


def test_distances_are_relative_to_each_tensor(tmp_path):
    a = {"w": np.array([3.0, 4.0]), "b": np.zeros(2)}
    assert relative_distance(a, a) == 0
    assert relative_distance(a, {**a, "w": np.array([3.0, 4.5])}) == pytest.approx(0.5 / np.hypot(3, 4.5))
    assert relative_distance(a, {"w": a["w"]}) == math.inf
    assert relative_distance(a, {**a, "b": np.zeros(3)}) == math.inf
    save_file({"w": np.array([[1.5]], dtype=np.float16)}, tmp_path / "a.safetensors")
    assert tensors_of(tmp_path / "a.safetensors")["w"].tolist() == [[1.5]]
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, {"b": True}], "c": "x"}))
    found = numbers_of_json(tmp_path / "a.json")
    assert {name: value if isinstance(value, str) else value.tolist() for name, value in found.items()} == {
        "/a/0": [1.0],
        "/a/1/b": "true",
        "/c": '"x"',
    }
    assert relative_distance(found, {**found, "/c": '"y"'}) == math.inf


def test_the_verdict_tells_tolerance_from_identity():
    near = Compared("models/a.json", "1" * 32, "2" * 32, 0.001, True)
    text = as_text([near], 0.01)
    assert "models/a.json" in text
    assert "numbers differ by 0.001" in text
    assert "equal within tolerance; 0 of 1 files have the same bytes" in text


@pytest.mark.parametrize("then", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1e200}', b'{"a": -1e200}'])
def test_what_is_not_finite_or_overflows_is_not_equal(tmp_path, then):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "m.json").write_bytes(now := b'{"a": 2}')
    md5 = put(tmp_path / ".dvc/cache/files/md5", then)
    (one,) = compare(
        tmp_path, {"m.json": md5}, {"m.json": hashlib.md5(now).hexdigest()}, 0.01, lambda n: None
    )
    assert not one.within
    assert relative_distance({"a": np.array([np.nan])}, {"a": np.array([np.nan])}) == 0


@pytest.mark.parametrize("name", ["m.json", "m.safetensors"])
@pytest.mark.parametrize("then", [b"[" * 100_000, b'{"a": 1' + b"0" * 400 + b"}", b"\xff" * 100, b""])
def test_a_file_that_cannot_be_read_is_not_equal(tmp_path, name, then):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "m.json").write_text("{}")
    save_file({"w": np.ones(2)}, tmp_path / "m.safetensors")
    md5 = put(tmp_path / ".dvc/cache/files/md5", then)
    (one,) = compare(tmp_path, {name: md5}, {name: "0" * 32}, 1e9, lambda name: None)
    assert (one.distance, one.within) == (None, False)


def test_a_file_that_the_run_did_not_have_differs(tmp_path):
    (tmp_path / ".dvc").mkdir()
    cache = tmp_path / ".dvc/cache/files/md5"
    held = {name: put(cache, name.encode()) for name in "ab"}
    listings = []
    for names in ("a", "ab"):
        text = json.dumps([{"md5": held[name], "relpath": name} for name in names]).encode()
        listings.append(hashlib.md5(text).hexdigest() + ".dir")
        (cache / listings[-1][:2]).mkdir(exist_ok=True)
        (cache / listings[-1][:2] / listings[-1][2:]).write_bytes(text)
    found = compare(tmp_path, {"out": listings[0]}, {"out": listings[1]}, 0.01, lambda name: None)
    assert [(one.path, one.then, one.within) for one in found] == [
        ("out/a", held["a"], True),
        ("out/b", "", False),
    ]
