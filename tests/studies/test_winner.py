import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from stand_ins import standing, study_of

from drtune.base.errors import StudyError
from drtune.base.yaml import read_yaml
from drtune.params import with_values
from drtune.runs.run_cache import is_recorded
from drtune.runs.stage_key import stage_key
from drtune.studies.winner import (
    apply,
    chosen,
    edited,
    give_to_dvc,
    refuse_uncommitted,
    scalar,
)

SHIPPED = Path(__file__).resolve().parents[2] / "params.yaml"
TEXT = SHIPPED.read_text(encoding="utf-8")
RAW = read_yaml(SHIPPED)
WORDS = ["off", "on", "no", "null", "True", "y", "~", "1e-3", "0x10", "1_000", "12:30", "=", "<<", "", ".inf"]
TEXTS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
VALUES = NUMBERS | st.booleans() | st.sampled_from(WORDS) | TEXTS


def leaves(values, prefix=""):
    """Dotted names of all single values; `study.space` has keys with dots, which are no sections."""
    for key, value in values.items():
        if isinstance(value, dict) and f"{prefix}{key}" != "study.space":
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, dict | list):
            yield f"{prefix}{key}"


LEAVES = list(leaves(RAW))


def ruamel(text):
    return YAML(typ="safe", pure=True).load(text)


def typed(value):
    return type(value), value


def changed_line(name, value):
    """The one line that differs once a value is set in the shipped file: before and after."""
    before, after = TEXT.split("\n"), edited(TEXT, {name: value}).split("\n")
    assert len(before) == len(after)
    differ = [number for number, line in enumerate(before) if line != after[number]]
    assert len(differ) <= 1
    return [(before[number], after[number]) for number in differ]


def comment_of(line):
    """Column of the comment; -1 without one. In the shipped file ` #` begins one wherever it stands."""
    return line.rfind(" # ") + 1


def check_line(name, value, before, after):
    """Only the value of a line has changed, both readers take it, and its comment is where it was."""
    key = name.rpartition(".")[2]
    head = f"{before.partition(':')[0]}: "
    assert head.strip() == f"{key}:"
    assert after.startswith(head + scalar(value))
    assert typed(ruamel(after.strip())[key]) == typed(value)
    assert typed(yaml.safe_load(after.strip())[key]) == typed(value)
    comment = comment_of(before)
    rest = after[len(head) + len(scalar(value)) :]
    assert rest.strip() == before[comment:].strip() if comment else not rest
    if comment:
        assert len(after) - len(rest.lstrip()) == max(comment, len(head) + len(scalar(value)) + 1)


# --- values in params.yaml


@pytest.mark.parametrize("name", LEAVES)
def test_each_value_of_params_yaml_can_be_set(name):
    lines = changed_line(name, 0.0625)
    assert len(lines) == 1
    check_line(name, 0.0625, *lines[0])


def test_the_leaves_are_those_of_the_file():
    assert len(LEAVES) > 100
    assert {"train.lr_head", "methods.sp.alpha", "augment.blur", "data.shots"} <= set(LEAVES)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LEAVES), VALUES)
def test_any_value_is_read_back_and_nothing_else_changes(name, value):
    for before, after in changed_line(name, value):
        check_line(name, value, before, after)


def test_all_values_at_once_are_read_back_by_both_readers():
    values = {name: number + 1e-7 for number, name in enumerate(LEAVES)}
    text = edited(TEXT, values)
    assert ruamel(text) == yaml.safe_load(text) == with_values(RAW, values)
    strings = {name: WORDS[number % len(WORDS)] for number, name in enumerate(LEAVES)}
    text = edited(TEXT, strings)
    assert ruamel(text) == yaml.safe_load(text) == with_values(RAW, strings)


def test_values_that_are_there_stay_as_they_are_written():
    values = {name: value for name, value in with_own().items() if value is not None}
    assert edited(TEXT, values) == TEXT
    assert edited("a: 1.0e-16   # x\nb: 'off'\n", {"a": 1e-16, "b": "off"}) == "a: 1.0e-16   # x\nb: 'off'\n"


def with_own():
    """Name -> value of every leaf."""
    found = {}
    for name in LEAVES:
        node = RAW
        for part in name.split("."):
            node = node[part]
        found[name] = node
    return found


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ("a: 1", 1.0, "a: 1.0"),
        ("a: 1.0", 1, "a: 1"),
        ("a: 1", True, "a: true"),
        ("a: true", 1, "a: 1"),
        ("a: off", "off", 'a: "off"'),
        ("a: 'off'", "on", 'a: "on"'),
        ("a: null", 0.5, "a: 0.5"),
        ("a: 5e-1", 0.25, "a: 0.25"),
        ("a:    0.5", 0.25, "a:    0.25"),
        ("'a': 0.5", 0.25, "'a': 0.25"),
        ("{a: 1, b: [1, 2]}", 2, "{a: 2, b: [1, 2]}"),
        ("é: ü\na: ß  # ö", "ä", 'é: ü\na: "ä" # ö'),
        ("a: 'x # y'  # z", "w", "a: w        # z"),
        ("a: 0.5 # c", 0.123456, "a: 0.123456 # c"),
        ("a: 0.5#c", "b", "a: b"),
        ("a: 0.5\r\nb: 1\r\n", 0.25, "a: 0.25\r\nb: 1\r\n"),
        ("\ufeffa: 0.5\n", 0.25, "\ufeffa: 0.25\n"),
        ("# a: 3\n\n\na: 3   # a\n\n# end", 4, "# a: 3\n\n\na: 4   # a\n\n# end"),
    ],
)
def test_how_a_value_is_set(before, value, after):
    assert edited(before, {"a": value}) == after


def test_names_with_one_beginning_are_told_apart():
    text = "a:\n  b: 1   # x\n  bb: 2\nb: 3\nc:\n  b: 4\n"
    values = {"c.b": 40, "a.b": 10, "b": 30}
    assert edited(text, values) == "a:\n  b: 10  # x\n  bb: 2\nb: 30\nc:\n  b: 40\n"


@pytest.mark.parametrize("name", ["train", "train.lr", "lr_head", "train.lr_head.x", "augment.crop_area", ""])
def test_what_is_no_single_value_is_refused(name):
    with pytest.raises(StudyError) as caught:
        edited(TEXT, {name: 1})
    assert str(caught.value) == f"params.yaml: {name} is not there as a single value, so it cannot be set"


@pytest.mark.parametrize(
    "text", ["a: &x 0.1\nb: *x\n", "b: &x 0.1\na: *x\n", "a:\nb: 1\n", "a: >\n  x\nb: 1\n"]
)
def test_what_cannot_be_set_without_touching_other_lines_is_refused(text):
    with pytest.raises(StudyError) as caught:
        edited(text, {"a": 0.5})
    assert str(caught.value) == (
        "params.yaml: a is no plain value in its own line, so it cannot be set; "
        "write it out, without an anchor and not empty"
    )


# --- how values are written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_has_no_exponent_and_keeps_every_digit(value):
    text = scalar(value)
    assert re.fullmatch(r"-?\d+\.\d+", text)
    assert typed(ruamel(text)) == typed(yaml.safe_load(text)) == typed(value)


@given(TEXTS | st.sampled_from(WORDS) | st.from_regex(r"[\w./-]{1,6}", fullmatch=True))
def test_text_stays_text(value):
    for text in (scalar(value), f"{scalar(value)} # x"):
        assert ruamel(f"a: {text}") == yaml.safe_load(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (1e-05, "0.00001"),
        (1e22, "10000000000000000000000.0"),
        (0.1, "0.1"),
        ("proper", "proper"),
        ("off", '"off"'),
        ("bank_over_batch", "bank_over_batch"),
        ("assets/a.safetensors", "assets/a.safetensors"),
        ("a b", '"a b"'),
    ],
)
def test_how_values_are_written(value, text):
    assert scalar(value) == text


# --- the file


def test_applying_shows_the_difference_and_writes_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\nb: 2   # two\nc: 3\nd: 4\n")
    shown = apply(path, {"b": 20})
    assert path.read_text() == "a: 1\nb: 20  # two\nc: 3\nd: 4\n"
    assert shown == (
        "--- a/params.yaml\n+++ b/params.yaml\n@@ -1,3 +1,3 @@\n a: 1\n-b: 2   # two\n+b: 20  # two\n c: 3\n"
    )


def test_applying_what_is_there_leaves_the_file_alone(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\n")
    before = path.stat()
    assert apply(path, {"a": 1}) == ""
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_applying_keeps_the_ends_of_lines(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("a: 1  # ü\r\nb: 2\r\n".encode())
    assert apply(path, {"b": 3})
    assert path.read_bytes() == "a: 1  # ü\r\nb: 3\r\n".encode()


def test_a_fault_leaves_the_file_alone(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(StudyError):
        apply(path, {"a": 2, "b": 3})
    assert path.read_text() == "a: 1\n"
    assert [one.name for one in tmp_path.iterdir()] == ["params.yaml"]


# --- git


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a committed params.yaml in a folder below its top."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "top" / "a folder"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("a: 1\n")
    git(tmp_path / "top", "init", "-q")
    commit(folder)
    return folder


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "x")


def refusal(path):
    with pytest.raises(StudyError) as caught:
        refuse_uncommitted(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_committed_file_may_be_written_over(repository, monkeypatch):
    refuse_uncommitted(repository / "params.yaml")
    (repository / "other.py").write_text("other files do not matter\n")
    monkeypatch.chdir(repository)
    refuse_uncommitted(Path("params.yaml"))


def test_changes_that_git_does_not_have_are_not_written_over(repository):
    path, remedy = repository / "params.yaml", "commit them first, or apply with --force"
    path.write_text("a: 2\n")
    assert refusal(path) == f'has changes that are not committed (M "a folder/params.yaml"); {remedy}'
    git(repository, "add", "-A")
    assert refusal(path) == f'has changes that are not committed (M  "a folder/params.yaml"); {remedy}'
    commit(repository)
    refuse_uncommitted(path)


def test_a_file_that_git_does_not_know_is_not_written_over(repository):
    new = repository / "new" / "params.yaml"
    new.parent.mkdir()
    new.write_text("a: 1\n")
    assert "has changes that are not committed (??" in refusal(new)
    (repository / ".gitignore").write_text("new\n")
    commit(repository)
    assert "has changes that are not committed (!!" in refusal(new)


def test_where_git_says_nothing_nothing_is_written_over(tmp_path, repository, monkeypatch):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\n")
    remedy = "commit them first, or apply with --force"
    assert refusal(path) == f"git cannot say whether it has changes; {remedy}"
    monkeypatch.setenv("PATH", "")
    assert refusal(repository / "params.yaml") == f"git cannot say whether it has changes; {remedy}"


def test_a_repository_without_a_commit(tmp_path, repository):
    bare = tmp_path / "bare"
    bare.mkdir()
    git(bare, "init", "-q")
    (bare / "params.yaml").write_text("a: 1\n")
    assert "has changes that are not committed (?? params.yaml)" in refusal(bare / "params.yaml")


# --- the winner


def test_the_best_trial_is_chosen_or_the_one_that_is_named():
    trials = [standing(0), standing(1, number=4), standing(2, "PRUNED")]
    study = study_of(*trials, best=[1])
    assert chosen(study, None) is trials[1]
    assert chosen(study, 0) is trials[0]
    assert chosen(study, 1) is trials[1], "by the number of its first attempt, which people see"


@pytest.mark.parametrize("number", [2, 3, 4, 9, -1])
def test_a_trial_that_is_not_complete_is_not_chosen(number):
    trials = [standing(0), standing(1, number=4), standing(2, "PRUNED"), standing(3, "RUNNING")]
    with pytest.raises(StudyError) as caught:
        chosen(study_of(*trials, best=[1]), number)
    assert str(caught.value) == f"study 's': trial {number} is not complete; complete: 0, 1"


def test_a_study_without_a_complete_trial_has_no_winner():
    study = study_of(standing(0, "FAIL"))
    with pytest.raises(StudyError) as caught:
        chosen(study, None)
    assert str(caught.value) == "study 's': no trial is complete yet; `drtune study resume s`"
    with pytest.raises(StudyError, match="trial 0 is not complete; complete: none"):
        chosen(study, 0)


def test_of_a_front_people_choose():
    trials = [standing(0, values=(0.5, 1.0)), standing(3, values=(0.7, 2.0)), standing(4, values=(0.1, 9.0))]
    study = study_of(*trials, best=[0, 3])
    with pytest.raises(StudyError) as caught:
        chosen(study, None)
    assert str(caught.value) == (
        "study 's': has two objectives, no trial is best in both; choose one with --trial: 0, 3"
    )
    assert chosen(study, 3) is trials[1]


# --- its model


def test_the_model_of_a_trial_goes_to_dvc_where_it_is_on_this_machine(tmp_path):
    (tmp_path / ".dvc").mkdir()
    entry = {
        "cmd": "python train.py",
        "deps": [{"path": "data", "md5": "ab"}],
        "params": {"params.yaml": {"train": {"lr_head": 0.25, "seed": 0}}},
        "outs": [{"path": "models"}],
    }
    values, trial = {"train.lr_head": 0.5}, tmp_path / "trial"
    assert not give_to_dvc(tmp_path, entry, values, trial)
    assert not (tmp_path / ".dvc" / "cache").exists()
    (trial / "models").mkdir(parents=True)
    (trial / "models" / "weights").write_text("w")
    assert give_to_dvc(tmp_path, entry, values, trial)
    assert is_recorded(tmp_path, stage_key(entry, values))
    assert not is_recorded(tmp_path, stage_key(entry))
    assert entry["params"]["params.yaml"]["train"]["lr_head"] == 0.25
