from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.official_step import Official
from drtune.backbones.classifier import Classifier

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "dr_tune_official.safetensors"


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
    code = Official(model, optimizer, bank, of["warmup.labels"].flatten(), bfloat16=False)
    batches = zip(of["inputs"], of["labels"], strict=True)
    losses = torch.stack([code.step(i, *batch) for i, batch in enumerate(batches)])
    torch.testing.assert_close(losses, of["losses"], rtol=1e-4, atol=0)
    for name, value in model.state_dict().items():
        close(value, of["final." + name.replace("encoder.0.", "encoder.")])
    close(code.pretrained, of["final.pretrained_bank"])
    close(code.downstream, of["final.downstream_bank"])
