"""The card of a packed data set."""

import pytest

from drtune.base.errors import DataError
from drtune.data.card import DatasetCard, Leaks, Skipped, data_sha256, read_card, write_card

CARD = DatasetCard(
    name="folder",
    title="Päckchen",
    classes=("cat", "dog"),
    counts={"train": 3, "ood/sketch": 1},
    per_class={"train": (1, 2), "ood/sketch": (0, 1)},
    source="a folder of images",
    licence="unknown",
    split="train as given",
    sha256={"train.arrow": "aa", "test.arrow": "bb"},
    modes={"RGB": 4},
    skipped=(Skipped(id="cat/x.jpg", reason="empty file (0 bytes)"),),
    leaks=Leaks(count=1, examples=("b (test) = a (train)",)),
    warnings=("1 file could not be used",),
)


def test_round_trip_with_stable_bytes(tmp_path):
    write_card(tmp_path, CARD)
    before = (tmp_path / "dataset.json").read_bytes()
    assert read_card(tmp_path) == CARD
    write_card(tmp_path, read_card(tmp_path))
    assert (tmp_path / "dataset.json").read_bytes() == before
    assert "Päckchen" in before.decode()


def test_identity_follows_train_and_classes_alone():
    other_test = CARD.model_copy(update={"sha256": {"train.arrow": "aa", "test.arrow": "cc"}})
    other_train = CARD.model_copy(update={"sha256": {"train.arrow": "ab", "test.arrow": "bb"}})
    more_shards = CARD.model_copy(update={"sha256": {**CARD.sha256, "train-001.arrow": "dd"}})
    other_classes = CARD.model_copy(update={"classes": ("dog", "cat")})
    assert len(data_sha256(CARD)) == 64
    assert data_sha256(other_test) == data_sha256(CARD)
    assert len({data_sha256(card) for card in (CARD, other_train, more_shards, other_classes)}) == 4


def test_not_a_data_set(tmp_path):
    with pytest.raises(DataError, match=r"holds no dataset\.json; run `dvc repro download`"):
        read_card(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"damaged or of another version: .* the first at title"):
        read_card(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="damaged or of another version"):
        read_card(tmp_path)


def test_a_model_of_other_classes_is_refused():
    card = DatasetCard.model_construct(title="toy", classes=("a", "b"))
    card.require_classes(["a", "b"])
    with pytest.raises(
        DataError, match=r"the model knows the classes b, a, the data set .toy. has a, b; run `dvc repro"
    ):
        card.require_classes(["b", "a"])


def test_a_message_does_not_list_thousands_of_classes():
    card = DatasetCard.model_construct(title="toy", classes=tuple(map(str, range(3000))))
    with pytest.raises(DataError, match=r"has 0, .*19, … \(2980 more\); run"):
        card.require_classes(["a"])


def test_groups_are_kept_where_there_are_some(tmp_path):
    write_card(tmp_path, CARD)
    assert "groups" not in (tmp_path / "dataset.json").read_text()
    write_card(tmp_path, CARD.model_copy(update={"groups": {"train": 2}}))
    assert read_card(tmp_path).groups == {"train": 2}
