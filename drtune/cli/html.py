"""Pieces of an HTML page that needs no other file; all text passes `escape` here."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

MOST_ROWS = 5000
"""Of a table; a page of a million lines opens nowhere."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222 }
body { max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { margin-bottom: 0 }
h2 { margin: 1.6em 0 .5em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse }
th, td { padding: .2em .9em .2em 0; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { font-weight: 600; border-bottom: 1px solid #bbb }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal }
figure img { margin-right: 4px; vertical-align: top }
.scroll { max-height: 32em; overflow: auto }
figure { display: inline-block; margin: 0 .6em .6em 0; vertical-align: top }
figcaption { overflow-wrap: anywhere }
.bar { background: #0072B2; height: .8em; min-width: 1px; margin-top: .35em }
.note { border-left: 4px solid; padding: .4em .8em; margin: .4em 0; overflow-wrap: anywhere }
.warning { border-color: #D55E00; background: #fdf3ec }
.good { border-color: #009E73; background: #eef8f5 }
"""


class Html(str):
    """Text that is HTML already."""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page under its title."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def section(title: str, *bodies: str) -> Html:
    """A heading and what stands below it."""
    return Html(f"<h2>{escape(title)}</h2>" + "".join(bodies))


def paragraph(text: str, kind: str = "") -> Html:
    """A line of text; `note warning` and `note good` stand out."""
    return Html(f'<p class="{kind}">{escape(text)}</p>')


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """A table that scrolls where it is long; integers stand to the right, under their heads."""
    first = rows[0] if rows else ()
    top = "".join(
        f"<th{' class=n' * is_number(value)}>{escape(head)}</th>"
        for head, value in zip(heads, first, strict=False)
    )
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>… and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return Html(f"<div class=scroll><table><tr>{top}</tr>{lines}</table></div>{more}")


def cell(value: Any) -> str:
    """One cell of a table."""
    if isinstance(value, Html):
        return f"<td>{value}</td>"
    text = f"{value:,}" if is_number(value) else escape(str(value))
    return f"<td{' class=n' * is_number(value)}>{text}</td>"


def is_number(value: Any) -> bool:
    """Whether a cell holds a count."""
    return isinstance(value, int) and not isinstance(value, bool)


def bar(share: float) -> Html:
    """A bar, 240 px where the share is 1."""
    return Html(f'<div class=bar style="width:{round(240 * share)}px"></div>')


def picture(content: bytes, kind: str, words: str, width: int | None = None) -> Html:
    """A picture inside the page; its words show under the pointer."""
    data, text = base64.b64encode(content).decode(), escape(words)
    wide = f' width="{width}"' if width else ""
    return Html(f'<img{wide} title="{text}" alt="{text}" src="data:image/{kind};base64,{data}">')


def captioned(words: str, pictures: Sequence[Html]) -> Html:
    """Pictures in a row under their caption; figures stand side by side where there is room."""
    wide = 'style="max-width:9em"' if len(pictures) == 1 else ""
    return Html(f"<figure {wide}><figcaption>{escape(words)}</figcaption>{''.join(pictures)}</figure>")
