from __future__ import annotations

from html.parser import HTMLParser


class Links(HTMLParser):
    """Collects everything that a browser would fetch or run, and checks that tags close in order."""

    void = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.urls += [str(found[key]) for key in ("src", "href", "action", "data") if key in found]
        if tag == "img":
            self.alts.append(found.get("alt"))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
