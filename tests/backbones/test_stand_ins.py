"""What training codes keep beside the tensors."""

import argparse
import sys
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from drtune.backbones.weights import read_checkpoint


@pytest.mark.parametrize("name", ["omegaconf.dictconfig.DictConfig", "yacs.config.CfgNode", "builtins.dict"])
def test_settings_of_other_libraries_are_read_as_nothing(name, tmp_path, monkeypatch):
    module, _, last = name.rpartition(".")
    base = dict if last == "CfgNode" else object
    kind = dict if last == "dict" else type(last, (base,), {"__module__": module, "__qualname__": last})
    thing = kind(a=1) if issubclass(kind, dict) else kind()
    path = tmp_path / "w.ckpt"
    with monkeypatch.context() as patch:
        if last != "dict":
            library = types.ModuleType(module)
            setattr(library, last, kind)
            for part in (module.split(".")[0], module):
                patch.setitem(sys.modules, part, library)
        content = {"state_dict": {"a": torch.ones(2)}, "cfg": thing, "kind": kind, "metric": np.float64(71.2)}
        torch.save({**content, "where": Path("x"), "counts": defaultdict(int, a=1)}, path)
    assert list(read_checkpoint(path)) == ["state_dict.a"]


def test_settings_beside_the_tensors_become_nothing(tmp_path):
    args = argparse.Namespace(lr=0.1, nested=argparse.Namespace(path=Path("x")))
    torch.save({"state_dict": {"a": torch.ones(2)}, "args": args, "hosts": {1, 2}}, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["state_dict.a"]
