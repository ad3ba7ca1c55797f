"""What a page says, read by the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser

_SILENT = ("script", "style")


class Reading(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._silent = 0
        self.feed(page)
        self.close()

    # HTMLParser calls these three.
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.elements.append((tag, dict(attrs)))
        self._silent += tag in _SILENT

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        self._silent -= tag in _SILENT

    def handle_data(self, data: str) -> None:  # noqa: D102
        if not self._silent:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that a reader reads, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]
