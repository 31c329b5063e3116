"""Pages hold text as text, numbers to the right, pictures inside."""

from drtune.cli.html import MOST_ROWS, Html, bar, document, paragraph, picture, section, table

EVIL = "<script>alert('1')</script>\"&"
SAFE = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&quot;&amp;"


def test_no_text_is_taken_for_html():
    page = document(
        EVIL, [section(EVIL, paragraph(EVIL), table([EVIL], [[EVIL]])), picture(b"x", "png", EVIL)]
    )
    assert "<script" not in page
    assert page.count(SAFE) == 8
    assert page.startswith('<!doctype html>\n<html lang="en">')


def test_a_table_sets_numbers_to_the_right_and_leaves_html_alone():
    found = table(("class", "images"), [("cat", 1200, Html("<b>x</b>"))])
    assert "<tr><th>class</th><th class=n>images</th></tr>" in found
    assert "<tr><td>cat</td><td class=n>1,200</td><td><b>x</b></td></tr>" in found
    assert "<td>True</td>" in table((), [(True,)])
    assert "<tr></tr></table>" in table(("a",), [])
    long = table((), [(number,) for number in range(MOST_ROWS + 7)])
    assert long.count("<tr>") == MOST_ROWS + 1
    assert long.endswith("<p>… and 7 more</p>")


def test_pictures_and_bars():
    assert picture(b"abc", "png", "a", 9) == (
        '<img width="9" title="a" alt="a" src="data:image/png;base64,YWJj">'
    )
    assert "width:60px" in bar(0.25)
