"""Check pages as a browser would read them."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.headings: list[int] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Leave elements that end themselves, as in drawings, out of account."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "dd", "li", "h2", "h3"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def words(self) -> str:
        """Text with single spaces."""
        return " ".join(self.text.split())

    def check(self) -> "Page":
        """Check what every page must have."""
        assert len(set(self.ids)) == len(self.ids)
        assert all(image["alt"] for image in self.images)
        assert self.headings[0] == 1
        assert self.headings.count(1) == 1
        for link in self.links:
            if link.startswith("#"):
                assert link[1:] in self.ids
        addresses = [*self.links, *(image["src"] for image in self.images)]
        assert not [link for link in addresses if ":" in link or link.startswith("/")]
        assert "url(" not in self.source
        return self


@pytest.fixture
def read_page():
    return lambda path: Page(path).check()
