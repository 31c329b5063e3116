import io
import json
import shutil
import time

import pandas
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from drtune.backbones.model_file import load_model
from drtune.data.images import decode_rgb
from drtune.data.settings import STANDARD
from drtune.data.transforms import eval_transform
from drtune.serving.pyfunc import ImageClassifier, _load_pyfunc


def test_it_says_what_the_model_says_of_the_transformed_image(model_folder, pictures):
    model, spec, card = load_model(model_folder)
    table = _load_pyfunc(str(model_folder)).predict(pandas.DataFrame({"image": pictures}))
    assert list(table.columns) == ["label", "probability", "probabilities"]
    for row, encoded in enumerate(pictures):
        image = eval_transform(spec)(Image.open(io.BytesIO(encoded)).convert("RGB"))
        with torch.inference_mode():
            shares = torch.softmax(model(image[None]).logits[0], 0)
        expected = dict(zip(card["classes"], shares.tolist(), strict=True))
        assert table.probabilities[row] == pytest.approx(expected, abs=1e-5)
        assert table.label[row] == max(expected, key=expected.get)
        assert table.probability[row] == max(table.probabilities[row].values())


def test_batches_change_nothing_and_an_empty_table_gives_one(model_folder, pictures):
    files = pictures * 3
    whole = ImageClassifier(model_folder, "cpu").probabilities(files)
    parts = _load_pyfunc(str(model_folder), {"device": "cpu", "batch_size": 2}).probabilities(files)
    assert whole.shape == (9, 3)
    torch.testing.assert_close(whole, parts)
    assert ImageClassifier(model_folder).predict(pandas.DataFrame({"image": []})).empty


def test_a_row_that_is_no_image_is_named(model_folder, pictures):
    model = ImageClassifier(model_folder, batch_size=2)
    with pytest.raises(
        MlflowException, match="row 2, column image: not an image.*expected the bytes of one image"
    ):
        model.predict(pandas.DataFrame({"image": [*pictures[:2], b"text"]}))


def test_the_server_answers_a_refused_picture_without_a_stack_trace(model_folder):
    model = ImageClassifier(model_folder)
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0", b"", 10**12, "text", None):
        with pytest.raises(MlflowException) as caught:
            model.predict(pandas.DataFrame({"image": [content]}))
        answer = json.loads(caught.value.serialize_as_json())
        assert "stack_trace" not in answer
        assert "drtune/" not in answer["message"]
        assert caught.value.get_http_status_code() == 400


def test_a_request_is_read_as_the_training_images_were(model_folder, pictures, tmp_path):
    shutil.copytree(model_folder, tmp_path / "m")
    path = tmp_path / "m/model.json"
    card = json.loads(path.read_text())
    assert card["reading"] == STANDARD.model_dump()
    path.write_text(json.dumps(card | {"reading": card["reading"] | {"colour": "grey"}}))
    grey = decode_rgb(pictures[0]).convert("L").convert("RGB")
    model = ImageClassifier(tmp_path / "m")
    assert torch.equal(model.image(pictures[0], 0), model.transform(grey))
    del card["reading"]
    path.write_text(json.dumps(card))
    assert ImageClassifier(tmp_path / "m").reading.profiles == "ignore", "as models before were trained"


def test_a_long_picture_holds_no_server(model_folder):
    stream = io.BytesIO()
    Image.new("RGB", (500_000, 1), (9, 90, 200)).save(stream, "PNG")
    start = time.monotonic()
    assert len(ImageClassifier(model_folder).predict(pandas.DataFrame({"image": [stream.getvalue()]}))) == 1
    assert time.monotonic() - start < 2
