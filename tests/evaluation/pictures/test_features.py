import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from drtune.evaluation.pictures import features
from drtune.evaluation.pictures.style import save


def blobs(n, classes=3, width=6, spread=0.2, seed=0):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, width, generator=draws)
    return centres[labels] + spread * torch.randn(n, width, generator=draws), labels


def names(count):
    return [f"class {c}" for c in range(count)]


def test_principal_components_equal_scikit_learn():
    points = blobs(30)[0].double().numpy()
    expected = PCA(4).fit_transform(points)
    got = features.principal_components(points, 4)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-9)
    assert all(column[np.abs(column).argmax()] > 0 for column in got.T)


@pytest.mark.parametrize(("n", "width"), [(1, 5), (2, 1), (3, 4), (4, 2), (5, 1), (6, 3), (40, 80)])
def test_every_small_set_has_a_finite_place(n, width):
    places = features.place(blobs(n, width=width)[0].double().numpy())
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


def test_equal_features_share_one_place():
    places = features.place(np.zeros((8, 3)))
    assert (places == 0).all()


def test_map_keeps_separate_classes_apart():
    points, labels = blobs(60, spread=0.05)
    places = torch.from_numpy(features.place(points.double().numpy()))
    distance = torch.cdist(places, places).fill_diagonal_(torch.inf)
    assert (labels[distance.argmin(1)] == labels).all()


def test_neighbour_accuracy_equals_scikit_learn():
    points, labels = blobs(50, classes=4, spread=1.0)
    model = KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    expected = cross_val_score(model, points.double().numpy(), labels.numpy(), cv=LeaveOneOut()).mean()
    assert 0.4 < expected < 1
    assert features.neighbour_note(points, labels) == f"\n5-nearest-neighbour accuracy {expected:.1%}"


def test_neighbour_note_of_few_images():
    points, labels = blobs(3)
    assert features.neighbour_note(points[:1], labels[:1]) == ""
    assert features.neighbour_note(points, labels) == "\n2-nearest-neighbour accuracy 0.0%"


def test_feature_map_names_panels_and_classes():
    before, labels = blobs(24, spread=2.0)
    after, _ = blobs(24, spread=0.01)
    figure = features.feature_map(before, after, labels, ["_cat", "$a$", "b" * 40], split="test")
    left, right = figure.axes
    assert left.get_title() == "Pretrained features" + features.neighbour_note(before, labels)
    assert right.get_title() == "Features after training\n5-nearest-neighbour accuracy 100.0%"
    assert figure.get_suptitle() == "Feature map, test split, n = 24"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "_cat",
        "$a$",
        f"{'b' * 12}…{'b' * 11}",
    ]
    assert [len(group.get_offsets()) for group in left.collections] == [8, 8, 8]


def test_feature_map_of_many_images_takes_a_sample(monkeypatch):
    monkeypatch.setattr(features, "MAPPED", 20)
    points, labels = blobs(60, classes=30)
    figure = features.feature_map(points, points, labels, names(30), split="test")
    assert figure.get_suptitle().startswith("Feature map, test split, n = 20 of 60 images")
    assert sum(len(group.get_offsets()) for group in figure.axes[0].collections) == 20


def test_feature_map_of_many_classes_has_no_legend():
    points, labels = blobs(42, classes=21)
    figure = features.feature_map(points, points, labels, names(21), split="test")
    assert figure.get_suptitle().endswith("n = 42; 21 classes, colours repeat")
    assert figure.legends == []


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (3, 2), (100, 100)])
def test_feature_map_file(n, classes, tmp_path):
    points, labels = blobs(n, classes)
    save(features.feature_map(points, points, labels, names(classes), split="test"), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        image.load()
        assert image.size == (1800, 870)


def test_equal_data_give_equal_bytes(tmp_path):
    points, labels = blobs(20)
    for name in ("a.png", "b.png"):
        save(features.feature_map(points, -points, labels, names(3), split="test"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
