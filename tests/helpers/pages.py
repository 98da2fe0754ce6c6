"""Reading HTML pages in tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input", "line", "rect", "circle"}


class Page(HTMLParser):
    """Parsed page: balanced tags are checked, attributes and text are collected."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, runs of white space as one."""
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [a[name] or "" for _, a in self.tags if name in a]

    def ids(self) -> set[str]:
        """Every id; each must stand once."""
        ids = self.attributes("id")
        assert len(ids) == len(set(ids)), "an id stands twice"
        return set(ids)


def assert_self_contained(html: str) -> Page:
    """No script, nothing fetched from anywhere, and links that lead somewhere on the page."""
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "audio", "video"}
    assert all(src.startswith("data:image/") for src in page.attributes("src"))
    ids = page.ids()
    for href in page.attributes("href"):
        assert href.startswith("#") and href[1:] in ids, href
    for name in ("srcset", "poster", "background", "action", "style"):
        assert not any("url(" in v or ":/" in v for v in page.attributes(name))
    assert not any(a.startswith("on") for _, attrs in page.tags for a in attrs)
    css = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in css and "@import" not in css
    assert "http://" not in html and "https://" not in html
    return page
