"""Write the encoder of a finished model as a file for `backbone.weights`.

python -m drtune.backbones.export MODELS FILE.safetensors        (the last stage of pretrain/)
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from drtune.backbones.model_file import load_model
from drtune.backbones.weights import RECORD
from drtune.base.errors import DRTuneError
from drtune.base.files import replacing


def export_encoder(folder: Path, target: Path) -> None:
    """Write the encoder of a finished model under timm's own names, ready for `backbone.weights`.

    Architecture and input are recorded in the file, so that `backbone.kwargs`, `image_size`, `mean`, `std`
    and `interpolation` may be null beside it.
    """
    model, spec, card = load_model(folder)
    state = {name: value.contiguous() for name, value in model.encoder.state_dict().items()}
    record = {
        "name": card["timm_name"],
        "kwargs": card["timm_kwargs"],
        "image_size": spec.size,
        "mean": spec.mean,
        "std": spec.std,
        "interpolation": spec.interpolation,
    }
    with replacing(target) as fresh:
        save_file(state, fresh, metadata={RECORD: json.dumps(record, sort_keys=True)})


if __name__ == "__main__":
    try:
        export_encoder(Path(sys.argv[1]), Path(sys.argv[2]))
    except DRTuneError as fault:
        sys.exit(f"export: {fault}")
