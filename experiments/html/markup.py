"""HTML that nothing in a run folder can steer: every text and every attribute passes through here, escaped."""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

VOID = ("br", "img", "input", "meta")
"""Elements without content."""

_CELL = re.compile(r"(.+?)( \[[^\]]*\])?(, n = [\d,]+)?", re.DOTALL)


class Safe(str):
    """HTML that was made here, and is escaped already."""

    __slots__ = ()


def text(value: Any) -> Safe:
    """Anything as text: markup in it is shown and not obeyed, characters that do not print become spaces."""
    if isinstance(value, Safe):
        return value
    shown = "".join(character if character.isprintable() or character == "\n" else " " for character in str(value))
    return Safe(html.escape(shown))


def tag(name: str, /, *children: Any, **attributes: Any) -> Safe:
    """An element; children that are not `Safe` are escaped, attributes always.

    `class_` is `class`, `data_for` is `data-for`; None and False leave an attribute out, True is one without value.
    Raises `ValueError` for what the page's Content-Security-Policy forbids: `style`, handlers, addresses elsewhere.
    """
    pairs = []
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if word == "style" or word.startswith("on"):
            raise ValueError(f"the page has no {word} attributes; use a class, or report.js")
        if word in ("href", "src") and not str(value).startswith(("#", "data:image/png;base64,")):
            raise ValueError(f"the page refers to nothing outside itself, got {word}={value}")
        if value is not None and value is not False:
            pairs.append(f" {word}" if value is True else f' {word}="{text(value)}"')
    opening = f"<{name}{''.join(pairs)}>"
    return Safe(opening if name in VOID else f"{opening}{joined(children)}</{name}>")


def joined(parts: Iterable[Any]) -> Safe:
    """Several pieces one after the other; None is none."""
    return Safe("".join(text(part) for part in parts if part is not None))


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def embedded(identifier: str, data: Any) -> Safe:
    """Data as JSON in a script element that is never run; no text in it can end the element."""
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return Safe(f'<script type="application/json" id="{text(identifier)}">{content}</script>')


def download(identifier: str, words: str) -> Safe:
    """A button that saves the embedded data of that id; report.js shows it."""
    return tag("button", words, type="button", class_="download", data_for=identifier, hidden=True)


def table(caption: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: bool = True) -> Safe:
    """A table with its caption, which scrolls sideways where it does not fit; cells after the first are numbers."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell(item)) for item in row[1:])) for row in rows]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="numbers" * numbers)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def cell(value: Any) -> Safe:
    """A table's cell; of `74.2 % [71.4 %, 76.8 %], n = 500` the interval and n stand back behind the value."""
    if isinstance(value, Safe):
        return value
    match = _CELL.fullmatch(str(value))
    if match is None or not (match[2] or match[3]):
        return text(value)
    interval, count = (match[2] or "").strip(), (match[3] or "").removeprefix(", ")
    parts = [tag("span", words) for words in (f"{interval}{',' if interval and count else ''}", count) if words]
    behind = joined([parts[0], *([" ", parts[1]] if parts[1:] else [])])
    return joined([tag("span", match[1], class_="value"), " ", tag("span", behind, class_="interval")])


def section(identifier: str, title: str, *children: Any) -> Safe:
    """A part of the page with its heading."""
    return tag("section", tag("h2", title), *children, id=identifier)


def details(summary: str, *children: Any) -> Safe:
    """A part that is folded until someone asks for it, and open on paper."""
    return tag("details", tag("summary", summary), *children)
