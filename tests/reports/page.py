"""Reading a finished page back, strictly: tags that close out of order are a failure."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "wbr", "img", "hr"}
ALLOWED = {
    "html", "head", "meta", "link", "title", "style", "body", "a", "header", "p", "div", "h1", "h2", "h3", "h5",
    "i", "ul", "li", "b", "nav", "main", "section", "article", "table", "thead", "tbody", "tfoot", "tr", "th",
    "td", "span", "small", "br", "wbr", "details", "summary", "figure", "figcaption", "label", "input",
    "button", "pre", "bdi", "mark", "strong", "code", "dl", "dt", "dd", "footer", "script", "svg", "desc",
    "defs", "g", "path", "use", "text", "clippath", "rect",
}  # fmt: skip


Row = list[tuple[dict[str, str | None], str]]
"""(attributes, text) of every cell."""


class Page(HTMLParser):
    """Collects what the tests ask about and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, list[str]] = {}
        self.rows: list[Row] = []
        self.tables: dict[str, list[Row]] = {}
        """The rows of every table that has an id."""
        self.samples: list[list[str]] = []
        """The kinds of every shown sample, shard by shard."""
        self._table: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self._table.append(dict(attrs).get("id") or "")
        if tag == "details":
            kind = dict(attrs).get("class")
            if kind == "shard":
                self.samples.append([])
            elif kind == "sample":
                self.samples[-1].append(dict(attrs)["data-kinds"] or "")
        if tag == "tr":
            self.rows.append([])
            self.tables.setdefault(self._table[-1], []).append(self.rows[-1])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append((dict(attrs), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag
        if tag == "table":
            self._table.pop()

    def handle_data(self, data: str) -> None:
        self.data.setdefault(self.stack[-1] if self.stack else "", []).append(data)
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.stack):
            attrs, text = self.rows[-1][-1]
            self.rows[-1][-1] = (attrs, text + data)

    @property
    def text(self) -> str:
        return " ".join(part for tag, parts in self.data.items() if tag not in ("script", "style") for part in parts)
