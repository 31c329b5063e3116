import os

import pytest

from drtune.base import cards as module
from drtune.base.cards import cards, driver


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with no driver under /proc; `tool` is its nvidia-smi."""
    monkeypatch.setattr(module, "NVIDIA", tmp_path / "proc")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def tool(folder, script):
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_cards_and_driver_are_read_from_proc(machine):
    (machine / "proc/gpus/0000:01:00.0").mkdir(parents=True)
    text = "Model: \t\t NVIDIA H200\nIRQ: 15\n"
    (machine / "proc/gpus/0000:01:00.0/information").write_text(text)
    first = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
    (machine / "proc/version").write_text(first + "GCC version:  gcc version 12.2.0 (Debian)\n")
    tool(machine, "echo 'Another'")
    assert (cards(), driver()) == (["NVIDIA H200"], "580.159.04")


def test_nvidia_smi_is_asked_where_proc_shows_none(machine):
    tool(machine, "case $1 in *name) echo Card A; echo Card B;; *) echo 550.1; echo 550.1;; esac")
    assert (cards(), driver()) == (["Card A", "Card B"], "550.1")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_cards_are_not_there(machine, monkeypatch, hidden):
    tool(machine, "echo Card A")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert cards() == []


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"])
def test_a_tool_that_fails_or_hangs_means_no_card(machine, monkeypatch, script):
    monkeypatch.setattr(module, "SECONDS", 0.1)
    tool(machine, script)
    assert (cards(), driver()) == ([], "")


def test_no_tool_means_no_card(machine, monkeypatch):
    monkeypatch.setenv("PATH", str(machine))
    assert (cards(), driver()) == ([], "")
