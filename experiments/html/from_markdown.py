"""The sentences and tables of report.md as HTML, so that both pages say the same.

Reads the Markdown that `report_markdown` writes (paragraphs, lists, tables, fences, emphasis, escapes), not Markdown in
general; what it does not know is shown as text.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from experiments.html.markup import Safe, cell, joined, table, tag, text

Drawn = Callable[[str, str], Safe | None]
"""A picture by its file's name and its description, None where it cannot be shown."""

_INLINE = re.compile(
    r"\\(?P<escaped>.)|\*\*(?P<strong>.+?)(?<!\\)\*\*|\*(?P<em>(?:\\.|[^*\\])+)\*|`(?P<code>[^`]+)`", re.DOTALL
)
_PICTURE = re.compile(r"!\[(?P<words>.*)\]\((?P<file>[^()]+)\)")


def nothing_drawn(file: str, words: str) -> None:
    """No picture at all."""


def render(lines: Sequence[str], caption: str, drawn: Drawn = nothing_drawn) -> Safe:
    """Lines of a section, without its heading; its tables get the caption."""
    return joined(_blocks([line for line in lines if not line.startswith("## ")], caption, drawn))


def inline(line: str) -> Safe:
    """One line: escapes, `*emphasis*`, `**strong**` and `` `code` ``; all else is text."""
    parts, end = [], 0
    for match in _INLINE.finditer(line):
        parts.append(text(line[end : match.start()]))
        kind = str(match.lastgroup)
        content = match[kind]
        literal = {"escaped": text, "code": lambda words: tag("code", words)}
        parts.append(literal[kind](content) if kind in literal else tag(kind, inline(content)))
        end = match.end()
    return joined([*parts, line[end:]])


def _blocks(lines: Sequence[str], caption: str, drawn: Drawn) -> Iterator[Safe]:
    start = 0
    while start < len(lines):
        end = start + 1
        first = lines[start]
        kind = next((mark for mark in ("| ", "- ", "```") if first.startswith(mark)), "")
        if kind == "```":
            fence = first.rstrip("abcdefghijklmnopqrstuvwxyz")
            end = lines.index(fence, end) + 1
            yield tag("pre", tag("code", "\n".join(lines[start + 1 : end - 1])), tabindex=0)
        elif kind:
            while end < len(lines) and lines[end].startswith(kind.strip()):
                end += 1
            yield (_table if kind == "| " else _list)(lines[start:end], caption)
        elif first:
            yield _paragraph(first, drawn)
        start = end


def _paragraph(line: str, drawn: Drawn) -> Safe:
    picture = _PICTURE.fullmatch(line)
    if picture is None:
        return tag("p", inline(line))
    return drawn(picture["file"], inline(picture["words"])) or Safe("")


def _list(lines: Sequence[str], _: str) -> Safe:
    return tag("ul", *(tag("li", inline(line.removeprefix("- "))) for line in lines))


def _table(lines: Sequence[str], caption: str) -> Safe:
    cells = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]
    header, rule, *rows = cells
    shown = [[inline(row[0]), *(_number(item) for item in row[1:])] for row in rows]
    return table(caption, [inline(item) for item in header], shown, numbers="--:" in rule)


def _number(item: str) -> Safe:
    """A cell whose interval stands back; one with other markup as it is."""
    plain = re.sub(r"\\(.)", r"\1", item)
    return inline(item) if re.search(r"(?<!\\)[*`]", item) else cell(plain)
