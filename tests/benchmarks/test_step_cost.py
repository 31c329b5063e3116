import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from benchmarks import step_cost
from drtune.backbones.classifier import Classifier
from drtune.backbones.zoo import Backbone
from drtune.config import BackboneSettings, load
from drtune.data.transforms import InputSpec
from drtune.methods import METHODS, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "dr_tune_official.safetensors"


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


def close(found, expected):
    assert (found.detach() - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("case", ["trajectory0", "trajectory1"])
def test_what_is_timed_as_the_official_code_computes_what_that_computes(case):
    if not GOLDEN.is_file():
        pytest.skip("official tensors are not beside the repository (../shared/golden)")
    of = {k.removeprefix(f"{case}."): v for k, v in load_file(GOLDEN).items() if k.startswith(case)}
    width, inputs = of["init.encoder.weight"].shape
    model = Classifier(nn.Sequential(nn.Linear(inputs, width), nn.ReLU()), width, len(of["init.head.weight"]))
    start = {k.removeprefix("init."): v for k, v in of.items() if k.startswith("init.")}
    model.load_state_dict({name.replace("encoder.", "encoder.0."): value for name, value in start.items()})
    with torch.no_grad():
        bank = model.encoder(of["warmup.inputs"].flatten(0, 1))
    groups = [{"params": model.encoder.parameters(), "lr": 0.01}, {"params": model.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.33, momentum=0.9, nesterov=True, weight_decay=1e-4)
    code = step_cost.Official(model, optimizer, bank, of["warmup.labels"].flatten(), bfloat16=False)
    batches = zip(of["inputs"], of["labels"], strict=True)
    losses = torch.stack([code.step(i, *batch) for i, batch in enumerate(batches)])
    torch.testing.assert_close(losses, of["losses"], rtol=1e-4, atol=0)
    for name, value in model.state_dict().items():
        close(value, of["final." + name.replace("encoder.0.", "encoder.")])
    close(code.pretrained, of["final.pretrained_bank"])
    close(code.downstream, of["final.downstream_bank"])


def test_every_contender_is_timed_in_every_round(world):
    rounds = step_cost.measure(world, 2)
    names = [step_cost.PLAIN, step_cost.PRECOMPUTED, step_cost.ONLINE, step_cost.OFFICIAL]
    others = [name for name in METHODS if name not in ("finetune", "dr_tune")]
    assert [list(times) for times in rounds] == [names + others, names + others]
    assert all(seconds > 0 for times in rounds for seconds in times.values())
    assert [list(times) for times in step_cost.measure_parts(world, 2)] == [names, names]


def test_parts_add_up_to_a_mean_step(world, monkeypatch):
    known = {"whole": (20.0, 20.0), "plain": (1.0, 1.0), "precomputed": (1.5, 2.5), "official": (2.0, 6.0)}
    steps = [step_cost.PLAIN, step_cost.PRECOMPUTED, step_cost.ONLINE, step_cost.OFFICIAL]
    behind_nothing = dict(zip(steps, ["plain", "precomputed", "precomputed", "official"], strict=True))
    monkeypatch.setattr(step_cost, "contenders", lambda world, others: behind_nothing)
    monkeypatch.setattr(step_cost, "ours", lambda *_: "whole")

    def seconds(step, numbers, device):
        kept, rotated = known.get(step, (4.0, 4.0))  # all else is the frozen encoder
        return rotated if numbers == [0] else kept

    monkeypatch.setattr(step_cost, "seconds", seconds)
    world.every = 10
    (times,) = step_cost.measure_parts(world, 1)
    assert list(times.values()) == pytest.approx([20.0, 20.0 + 0.6, 20.0 + 0.6 + 4.0, 20.0 + 1.4 + 4.0])


def test_rotations_fall_on_the_numbers_that_the_period_divides(world):
    rotations = []
    for number in (0, 1, world.every):
        step = step_cost.ours("dr_tune", {"bank_size": 128}, world)
        method = step.__closure__[0].cell_contents
        step(number)
        rotations.append(method.rotation is not None)
    assert rotations == [True, False, True]


def test_the_table_gives_medians_and_quartiles():
    names = [step_cost.PLAIN, step_cost.PRECOMPUTED, step_cost.ONLINE, step_cost.OFFICIAL]
    rounds = [dict(zip(names, (0.1, 0.1 * x, 0.2, 0.3), strict=True)) for x in (1.0, 1.1, 1.2)]
    lines = step_cost.table(rounds).splitlines()
    assert " ".join(lines[2].split()) == "DR-Tune, precomputed bank 110.0 1.100 (1.050 to 1.150)"
    assert lines[-1] == f"official cost / {step_cost.ONLINE}: 1.500 (1.500 to 1.500)"


def test_it_runs_without_tracker_dvc_and_optuna():
    code = (
        f"import runpy, sys; runpy.run_path({str(ROOT / 'benchmarks' / 'step_cost.py')!r});"
        "print([name for name in ('mlflow', 'dvc', 'optuna') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"
