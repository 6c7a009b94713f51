"""A strict little HTML reader for the tests of this folder."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from fedmodels.report.page import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Parses a page, refuses tags that are not closed in order, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.named: Counter[tuple[str, str]] = Counter()
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def check_tables(self) -> int:
        """Every row of a table has as many cells as the others; the number of tables."""
        tables: list[list[int]] = []
        for tag, _ in self.tags:
            if tag == "table":
                tables.append([])
            elif tag == "tr":
                tables[-1].append(0)
            elif tag in {"td", "th"}:
                tables[-1][-1] += 1
        assert all(len(rows) > 1 and len(set(rows)) == 1 for rows in tables)
        return len(tables)

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and data.strip():
            self.named[self.open[-1], data.strip()] += 1

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag in names]


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))
