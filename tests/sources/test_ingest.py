"""From a source to a packed data set: cuts, shots, leaks, equal bytes, and nothing half-written."""

import errno
import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drtune.base.errors import DataError
from drtune.base.files import sha256_of
from drtune.data.card import data_sha256, read_card
from drtune.data.packed import Split, open_split
from drtune.data.settings import STANDARD
from drtune.params import load
from drtune.sources import ingest as module
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


def settings(**changes) -> DataSettings:
    values = {"source": "", "shots": None, "val_fraction": 0.2, "test_fraction": 0.2}
    return load(ROOT / "params.yaml")[DataSettings].model_copy(update={**values, **changes})


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def fill(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """So many pictures in each folder, no two alike."""
    for place, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number}.png").write_bytes(picture(seed + 1000 * place + number))
    return root


@pytest.fixture
def zoo(tmp_path):
    return fill(tmp_path / "zoo", {"ant": 10, "bee": 20})


def run(root: Path, tmp_path: Path, **changes):
    return ingest(settings(source=str(root), **changes), tmp_path / "out", tmp_path / "downloads")


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_class_folders_are_cut_by_seed(zoo, tmp_path):
    card = run(zoo, tmp_path)
    assert card == read_card(tmp_path / "out")
    assert card.counts == {"train": 18, "val": 6, "test": 6}
    assert card.per_class == {"train": (6, 12), "val": (2, 4), "test": (2, 4)}
    assert (card.name, card.title, card.classes, card.modes) == ("zoo", "zoo", ("ant", "bee"), {"RGB": 30})
    assert card.split == (
        "the folder has no split; test: 0.2 of each class cut from train by seed 0; "
        "val: 0.2 of each class cut from train by seed 0"
    )
    parts = [open_split(tmp_path / "out", split) for split in Split]
    ids = [key for part in parts for key in part.ids]
    assert len(set(ids)) == 30
    for part in parts:
        assert part.ids == sorted(part.ids)
        for row, key in enumerate(part.ids):
            assert part.encoded(row) == (zoo / key).read_bytes()
            assert card.classes[int(part.labels[row])] == key.split("/")[0]


def test_equal_input_gives_equal_bytes(zoo, tmp_path):
    run(zoo, tmp_path)
    before = content(tmp_path / "out")
    run(zoo, tmp_path)
    assert content(tmp_path / "out") == before
    assert sorted(before) == ["dataset.json", "test.arrow", "train.arrow", "val.arrow"]
    assert str(tmp_path) not in before["dataset.json"].decode()
    run(zoo, tmp_path, seed=1)
    assert content(tmp_path / "out") != before


def test_given_splits_are_kept_and_val_alone_is_cut(tmp_path):
    root = fill(
        tmp_path / "zoo", {"train/ant": 10, "train/bee": 10, "test/ant": 2, "test/bee": 3, "ood/drawn/bee": 4}
    )
    card = run(root, tmp_path)
    assert card.counts == {"train": 16, "val": 4, "test": 5, "ood/drawn": 4}
    assert card.per_class["ood/drawn"] == (0, 4)
    assert sorted(card.sha256) == ["ood/drawn.arrow", "test.arrow", "train.arrow", "val.arrow"]
    assert open_split(tmp_path / "out", "ood/drawn").ids[0] == "ood/drawn/bee/0.png"
    assert "test:" not in card.split
    assert "val: 0.2 of each class cut from train" in card.split


def test_train_folder_alone_is_cut_twice(tmp_path):
    card = run(fill(tmp_path / "zoo", {"train/ant": 10, "train/bee": 10}), tmp_path)
    assert card.counts == {"train": 12, "val": 4, "test": 4}
    assert card.split.startswith("train as given by folders; test: 0.2")


def test_shots_and_fraction_thin_train_alone(zoo, tmp_path):
    whole = run(zoo, tmp_path)
    few = run(zoo, tmp_path, shots=4)
    assert few.per_class == {"train": (4, 4), "val": (2, 4), "test": (2, 4)}
    assert few.sha256["val.arrow"] == whole.sha256["val.arrow"]
    assert few.split.endswith("train: 4 images a class by seed 0")
    assert few.warnings == ()
    half = run(zoo, tmp_path, fraction=0.5)
    assert half.per_class["train"] == (3, 6)
    both = run(zoo, tmp_path, fraction=0.5, shots=5)
    assert both.per_class["train"] == (3, 5)
    assert both.warnings == ("1 of 2 classes have fewer than 5 train images: ant (3)",)


def test_smallest_possible_classes(tmp_path):
    card = run(fill(tmp_path / "zoo", {"ant": 3, "bee": 3}), tmp_path, test_fraction=0.6, val_fraction=0.1)
    assert card.per_class == {"train": (1, 1), "val": (1, 1), "test": (1, 1)}


def test_leaks_are_counted(tmp_path):
    root = fill(tmp_path / "zoo", {f"{split}/{c}": 3 for split in Split for c in ("ant", "bee")})
    (root / "test/ant/copy.png").write_bytes((root / "train/ant/1.png").read_bytes())
    (root / "val/bee/copy.png").write_bytes((root / "train/bee/2.png").read_bytes())
    (root / "train/bee/twice.png").write_bytes((root / "train/bee/0.png").read_bytes())
    card = run(root, tmp_path)
    assert card.leaks.count == 2
    assert card.leaks.examples == (
        "val/bee/copy.png (val) = train/bee/2.png (train)",
        "test/ant/copy.png (test) = train/ant/1.png (train)",
    )
    assert card.warnings == ("2 images of val or test also stand in train or val, byte for byte",)


def test_what_pixels_mean_travels_with_the_set_and_into_the_identity_of_a_bank(zoo, tmp_path):
    whole = run(zoo, tmp_path)
    assert "reading" not in json.loads((tmp_path / "out/dataset.json").read_text()), "as shipped"
    grey = run(zoo, tmp_path, colour="grey")
    assert read_card(tmp_path / "out").reading == STANDARD.model_copy(update={"colour": "grey"})
    assert whole.sha256 == grey.sha256
    assert data_sha256(whole) != data_sha256(grey)
    split = pickle.loads(pickle.dumps(open_split(tmp_path / "out", "train")))
    pixels = np.asarray(split.image(0))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert len(np.unique(pixels)) > 2


def test_a_set_of_deep_grey_needs_its_range(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((4, 4), 100.0 * number, np.float32)
            Image.fromarray(pixels).save(tmp_path / "zoo" / name / f"{number}.tif")
    with pytest.raises(DataError, match=r"ant/0\.tif: .*state theirs in data\.value_range: \[LOW, HIGH\]"):
        run(tmp_path / "zoo", tmp_path)
    card = run(tmp_path / "zoo", tmp_path, value_range=[0.0, 200.0])
    assert card.modes == {"F": 6}
    levels = {
        int(np.asarray(open_split(tmp_path / "out", part).image(row))[0, 0, 0])
        for part in Split
        for row in range(card.counts[part])
    }
    assert levels == {0, 128, 255}


def test_equal_images_stay_on_one_side_of_a_cut(tmp_path):
    root = fill(tmp_path / "zoo", {"ant": 10, "bee": 10})
    for path in list(root.rglob("*.png")):
        path.with_name(f"{path.stem} (1).png").write_bytes(path.read_bytes())
    card = run(root, tmp_path)
    assert card.counts == {"train": 24, "val": 8, "test": 8}
    assert (card.leaks.count, card.warnings) == (0, ())
    for path in list((root / "ant").iterdir())[4:]:
        path.unlink()
    for path in list((root / "ant").iterdir())[1:]:
        path.write_bytes(picture(0))
    with pytest.raises(
        DataError, match=r"test needs at least 3 different images in every class; .*: ant \([12]\)"
    ):
        run(root, tmp_path)


def test_images_in_two_classes_are_named(zoo, tmp_path):
    for number in range(4):
        (zoo / "bee" / f"x{number}.png").write_bytes((zoo / "ant" / f"{number}.png").read_bytes())
    card = run(zoo, tmp_path)
    assert card.leaks.count == 0
    assert card.warnings == (
        "images that stand in several classes, byte for byte: 4 (ant/0.png = bee/x0.png, "
        "ant/1.png = bee/x1.png, ant/2.png = bee/x2.png, ant/3.png = bee/x3.png)",
    )
    assert (card.conflicts.count, read_card(tmp_path / "out")) == (4, card)


def test_groups_of_a_table_and_of_an_expression_are_kept_and_counted(tmp_path):
    root = fill(tmp_path / "zoo", {"images": 60})
    rows = [f"{number},{number % 2},p{number // 4}" for number in range(60)]
    (root / "labels.csv").write_text("\n".join(["image,label,patient", *rows]))
    card = run(root, tmp_path, group="patient")
    assert card.groups == {"train": 9, "val": 3, "test": 3}
    assert card.counts == {"train": 36, "val": 12, "test": 12}
    assert card.split.startswith(
        "labels.csv has no split; test: 0.2 of each class cut from train by whole groups "
        "(column patient of labels.csv) by seed 0"
    )
    sides = [{int(Path(key).stem) // 4 for key in open_split(tmp_path / "out", s).ids} for s in Split]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 15
    card = run(root, tmp_path, group=r"(\d)\.png$")
    assert card.groups == {"train": 6, "val": 2, "test": 2}
    assert r"(data.group (\d)\.png$)" in card.split


def test_faults_of_groups_come_before_any_decoding(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "check_images", lambda *a: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"cutting test needs at least 3 groups .*: ant \(2\), bee \(2\)"):
        run(zoo, tmp_path, group=r"(\w+/1?)")


def test_odd_names_come_through(tmp_path):
    names = ["01", "NA", "null", "true", "1e3", "$x$", "a,b", "ä", "-1", "#", "A", "a"]
    root = fill(tmp_path / "zoo", dict.fromkeys(names, 3))
    (root / "01/0.png").rename(root / "01/line\nbreak .png")
    card = run(root, tmp_path)
    assert set(card.classes) == set(read_card(tmp_path / "out").classes) == set(names)
    ids = [key for split in Split for key in open_split(tmp_path / "out", split).ids]
    assert "01/line\\nbreak .png" in ids
    assert card.warnings == ("classes that differ by case or spaces alone, each its own class: 'A' and 'a'",)


def test_files_of_all_kinds_stand_in_one_set(tmp_path):
    rows, columns = np.indices((3000, 4000))
    photo = Image.fromarray(np.stack([rows // 12, columns // 16, 0 * rows + 90], -1).astype(np.uint8))
    small = photo.resize((400, 300))
    other = Image.new("RGB", small.size, "red")
    for name in ("ant", "bee"):
        place = tmp_path / "zoo" / name
        place.mkdir(parents=True)
        photo.save(place / f"{name}_12mp.jpg", quality=95)
        small.convert("CMYK").save(place / "print.jpg", quality=95)
        small.save(place / "new.avif", quality=95)
        small.save(place / "moving.webp", save_all=True, append_images=[other], quality=95)
        deep = np.asarray(small.convert("L")).astype(np.uint16) * 16 + len(name)
        Image.fromarray(deep).save(place / "deep.tif")
    for path in (tmp_path / "zoo/bee").iterdir():  # no two files alike
        path.write_bytes(path.read_bytes() + b"\0")
    card = run(tmp_path / "zoo", tmp_path, frames="first", value_range=[0.0, 4095.0])
    assert card.modes == {"CMYK": 2, "I;16": 2, "RGB": 6}
    assert card.warnings == ("files of several frames or pages, of which the first is taken: 2",)
    splits = [open_split(tmp_path / "out", part) for part in Split]
    found = {key: split.image(row) for split in splits for row, key in enumerate(split.ids)}
    assert found["ant/ant_12mp.jpg"].size == (4000, 3000)
    assert len(found) == 10
    for key, image in found.items():
        wanted = small.convert("L").convert("RGB") if "deep" in key else small
        difference = np.abs(np.asarray(image.resize(small.size)).astype(int) - np.asarray(wanted))
        assert difference.mean() < 4, key


def test_bad_images_stop_everything_or_are_recorded(zoo, tmp_path):
    (zoo / "ant" / "z.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)zoo: 1 image that cannot be used.*ant/z\.jpg: empty file"):
        run(zoo, tmp_path)
    assert not (tmp_path / "out").exists()
    card = run(zoo, tmp_path, on_bad_image="skip")
    assert [(item.id, item.reason) for item in card.skipped] == [("ant/z.jpg", "empty file (0 bytes)")]
    assert sum(card.counts.values()) == 30
    assert card.warnings == ("files that could not be used and were left out: 1",)


def test_classes_are_checked_again_after_skipping(tmp_path):
    root = fill(tmp_path / "zoo", {"ant": 5, "bee": 3})
    (root / "bee" / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"(?s)after skipping 1 bad images.*bee: 2 images; at least 3"):
        run(root, tmp_path, on_bad_image="skip")


def test_faults_in_the_classes_come_before_any_decoding(tmp_path, monkeypatch):
    root = fill(tmp_path / "zoo", {"ant": 5, "bee": 1, "cat": 0})
    monkeypatch.setattr(module, "check_images", lambda *a: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"(?s)zoo: 2 faults in its classes.*bee: 1 image.*cat: no images"):
        run(root, tmp_path)


def test_full_disk_leaves_what_was_there(zoo, tmp_path, monkeypatch):
    run(zoo, tmp_path)
    before = content(tmp_path / "out")
    real, calls = module.write_split, []

    def full(path, rows):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, rows)

    monkeypatch.setattr(module, "write_split", full)
    with pytest.raises(DataError, match=r"no space left on the disk of .*out .*make room and run again"):
        run(zoo, tmp_path, seed=1)
    assert content(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "zoo"]


def test_other_system_faults_are_not_renamed(zoo, tmp_path, monkeypatch):
    def broken(path, rows):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "write_split", broken)
    with pytest.raises(OSError, match="Input/output error"):
        run(zoo, tmp_path)


def test_file_that_changes_meanwhile(zoo, tmp_path, monkeypatch):
    real = module.check_images

    def change_after(*args):
        checked = real(*args)
        (zoo / "ant" / "3.png").write_bytes(picture(77))
        return checked

    monkeypatch.setattr(module, "check_images", change_after)
    with pytest.raises(DataError, match=r"ant/3\.png changed while it was being read"):
        run(zoo, tmp_path)
    assert not (tmp_path / "out").exists()


def test_digits(tmp_path):
    calls = []
    done = ingest(
        settings(source=str(ROOT / "catalog/digits.yaml"), shots=5),
        tmp_path / "out",
        tmp_path,
        lambda *call: calls.append(call),
    )
    assert done.per_class["train"] == (5,) * 10
    assert done.modes == {"L": 1797}
    assert calls[-1] == (1797, 1797)
    image = open_split(tmp_path / "out", "train").image(0)
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_real_folder(tmp_path):
    archive = SHARED / "omniglot104_compact.tar"
    if not archive.is_file():
        pytest.skip(f"{archive} is not here")
    with tarfile.open(archive) as tar:
        names = [m for m in tar.getmembers() if "Tagalog_character0" in m.name or m.name.endswith(".json")]
        for name in names:  # extractall's filter came with Python 3.11.4 and is wanted from 3.14 on
            target = tmp_path / name.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(name).read())
    listed = json.loads((tmp_path / "omniglot104" / "dataset.json").read_text())["classes"]
    card = run(tmp_path / "omniglot104", tmp_path)
    assert len(card.classes) >= 5
    assert set(card.classes) <= set(listed)
    assert card.counts["test"] == 10 * len(card.classes)
    assert card.leaks.count == 0


LIGHT = """
import sys
import json
from pathlib import Path
from drtune.sources.ingest import ingest
from drtune.sources.settings import DataSettings
values = json.loads(sys.argv[3])
for number, source in enumerate(json.loads(sys.argv[2])):
    ingest(DataSettings(**{**values, "source": source}), Path(sys.argv[1]) / str(number), Path(sys.argv[1]))
print([name for name in ("torch", "torchvision", "sklearn", "scipy", "timm") if name in sys.modules])
"""


def test_heavy_packages_are_not_imported(zoo, tmp_path):
    record = tmp_path / "mine.yaml"
    with tarfile.open(tmp_path / "zoo.tar", "w") as archive:
        archive.add(zoo, "zoo")
    record.write_text(
        "title: Zoo\nlicence: mine\nhomepage: none\nclasses: 2\nsplit: none\nlayout: folders\nfiles:\n"
        f"  - {{url: 'file://{tmp_path}/zoo.tar', sha256: {sha256_of(tmp_path / 'zoo.tar')}}}\n"
    )
    sources = [str(zoo), str(record), str(ROOT / "catalog/digits.yaml")]
    given = [json.dumps(sources), json.dumps(settings(shots=1).model_dump())]
    command = [sys.executable, "-c", LIGHT, str(tmp_path / "packed"), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    cards = [read_card(tmp_path / "packed" / str(number)) for number in range(3)]
    assert [(card.name, card.title) for card in cards][:2] == [("zoo", "zoo"), ("mine", "Zoo")]
    assert [card.counts["test"] for card in cards] == [6, 6, 359]
