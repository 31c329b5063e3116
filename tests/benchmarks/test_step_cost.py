import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks import step_cost
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import Backbone
from drtune.data.transforms import InputSpec
from drtune.params import SETTINGS, load

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    step_cost.PLAIN,
    step_cost.PRECOMPUTED,
    step_cost.WHOLE,
    step_cost.ONLINE,
    step_cost.OFFICIAL,
    step_cost.OFFICIAL_RELAID,
]


@pytest.fixture
def world():
    AcceleratorState._reset_state(True)
    params = load(ROOT / "params.yaml", SETTINGS)
    encoder = nn.Sequential(nn.Conv2d(3, 5, 8), nn.BatchNorm2d(5), nn.Flatten(), nn.ReLU())
    encoder.feature_info = [{"module": "0", "reduction": 8}]
    spec = InputSpec(size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_fraction=1.0)
    backbone = Backbone(encoder, 5, spec, "", params[BackboneSettings])
    yield step_cost.World(params, backbone, 3, torch.device("cpu"), 128)
    AcceleratorState._reset_state(True)


def test_every_contender_is_timed_in_every_round(world):
    rounds = step_cost.measure(world, 2)
    others = [name for name in SETTINGS if name not in ("finetune", "dr_tune")]
    assert [list(times) for times in rounds] == [NAMES + others, NAMES + others]
    assert all(seconds > 0 for times in rounds for seconds in times.values())
    assert [list(times) for times in step_cost.measure_parts(world, 2)] == [NAMES, NAMES]


def test_parts_add_up_to_a_mean_step(world, monkeypatch):
    once = {"relaid step": 20.0, "relaid pass": 4.0, "own step": 30.0, "own pass": 7.0}
    rest = {"plain": (1.0, 1.0), "precomputed": (1.5, 2.5), "official": (2.0, 6.0)}  # (kept, rotated)
    contenders = ["plain", "precomputed", "precomputed", "precomputed", "official", "official"]
    monkeypatch.setattr(
        step_cost, "contenders", lambda world, others: dict(zip(NAMES, contenders, strict=True))
    )
    layouts = {True: ("relaid step", "relaid pass"), False: ("own step", "own pass")}
    monkeypatch.setattr(step_cost, "encoder_steps", lambda given: layouts[given is world])
    monkeypatch.setattr(
        step_cost,
        "seconds",
        lambda step, numbers, device: once[step] if step in once else rest[step][numbers == [0]],
    )
    world.every = 10
    (times,) = step_cost.measure_parts(world, 1)
    assert list(times.values()) == pytest.approx([20.0, 20.6, 20.6, 24.6, 37.0 + 1.4, 24.0 + 1.4])


def test_the_official_code_is_timed_in_its_own_layout_and_in_ours(world):
    kernels = world.backbone.encoder[0].to(memory_format=torch.channels_last).weight
    own = world.contiguous().backbone.encoder[0].weight
    assert own.is_contiguous()
    assert not own.is_contiguous(memory_format=torch.channels_last)
    assert kernels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(own, kernels)
    found = step_cost.contenders(world, others=False)
    layouts = [
        found[name].__closure__[0].cell_contents.model.encoder[0].weight.is_contiguous()
        for name in (step_cost.OFFICIAL, step_cost.OFFICIAL_RELAID)
    ]
    assert layouts == [True, False]


def test_one_contender_takes_the_whole_ring_whatever_is_shipped(world):
    found = step_cost.contenders(world, others=False)
    shipped, whole = (
        found[name].__closure__[0].cell_contents.method.settings
        for name in (step_cost.PRECOMPUTED, step_cost.WHOLE)
    )
    assert shipped == world.params.method("dr_tune").model_copy(update={"bank_size": 128})
    assert whole == shipped.model_copy(update={"rows_per_step": None})


def test_rotations_fall_on_the_numbers_that_the_period_divides(world):
    rotations = []
    for number in (0, 1, world.every):
        step = step_cost.ours("dr_tune", {"bank_size": 128}, world)
        method = step.__closure__[0].cell_contents.method
        before = method.rotation.clone()
        step(number)
        rotations.append(not torch.equal(method.rotation, before))
    assert rotations == [True, False, True]


def test_the_table_gives_medians_and_quartiles():
    rounds = [dict(zip(NAMES, (0.1, 0.1 * x, 0.15, 0.2, 0.3, 0.25), strict=True)) for x in (1.0, 1.1, 1.2)]
    lines = step_cost.table(rounds).splitlines()
    assert " ".join(lines[2].split()) == "DR-Tune, precomputed bank 110.0 1.100 (1.050 to 1.150)"
    assert lines[-4] == f"official cost / {step_cost.ONLINE}: 1.500 (1.500 to 1.500)"
    assert lines[-1] == f"official cost, channels last / {step_cost.ONLINE}: 1.250 (1.250 to 1.250)"


def test_it_runs_without_tracker_dvc_and_optuna():
    code = (
        f"import runpy, sys; runpy.run_path({str(ROOT / 'benchmarks' / 'step_cost.py')!r});"
        "print([name for name in ('mlflow', 'dvc', 'optuna') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"
