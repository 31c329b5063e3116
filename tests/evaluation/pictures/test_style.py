import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from drtune.evaluation.pictures import style


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("cat", 10, "cat"),
        ("exactly_10", 10, "exactly_10"),
        ("abcdefghijkl", 10, "abcde…ijkl"),
        ("abcdefghijkl", 7, "abc…jkl"),
        ("two\nlines\tand  blanks", 30, "two lines and blanks"),
    ],
)
def test_shorten(name, limit, expected):
    assert style.shorten(name, limit) == expected
    assert len(style.shorten(name, limit)) <= limit


def test_a_hundred_classes_look_different():
    looks = [style.class_look(label) for label in range(101)]
    assert len(set(looks[:100])) == 100
    assert looks[100] == looks[0]


def picture():
    figure = style.new_figure(3, 2)
    figure.add_subplot().plot([1, 3, 2])
    return figure


def test_saved_bytes_are_stable_and_carry_no_metadata(tmp_path):
    for name in ("a.png", "b.png"):
        style.save(picture(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (450, 300)
        assert set(image.info) == {"dpi"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_look_does_not_depend_on_the_callers_settings(tmp_path):
    drawn = style.styled(picture)
    style.save(drawn(), tmp_path / "plain.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "savefig.facecolor": "blue"}):
        style.save(drawn(), tmp_path / "odd.png")
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "odd.png").read_bytes()


def test_letters_that_no_font_has_are_no_fault(tmp_path):
    style.save(style.message("\U000e0123 \U0010fffd"), tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 0


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_text("old")
    with pytest.raises(AttributeError):
        style.save(None, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_message_says_it():
    figure = style.message("nothing to see")
    assert isinstance(figure, Figure)
    assert figure.texts[0].get_text() == "nothing to see"
