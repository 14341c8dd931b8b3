"""What the page is made of, as values that the templates turn into HTML. No text here is escaped."""

from typing import Any, NamedTuple


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        key: its id.
        template: its file in templates/sections.
        shown: what that template reads.
    """

    key: str
    heading: str
    template: str
    shown: Any


class Figure(NamedTuple):
    """A figure with its heading and what stands under it.

    Attributes:
        number: its place in the page's JSON.
        level: of its heading, 3 for h3.
        label: its alternative text.
        height: in pixels.
    """

    number: int
    heading: str
    level: int
    label: str
    height: float
    notes: str


class Gallery(NamedTuple):
    """Figures that stand together; `missing` says of each one without marks why it is not shown."""

    figures: list[Figure]
    missing: list[str]


class Cell(NamedTuple):
    """A cell of a table; a number carries the text that it sorts by."""

    text: str
    order: str | None = None


class Table(NamedTuple):
    """A table that a reader sorts and filters.

    Attributes:
        key: its id.
        texts: how many of the columns are texts; numbers follow, which stand right.
    """

    key: str
    caption: str
    head: list[str]
    rows: list[list[Cell]]
    texts: int


class Fact(NamedTuple):
    """A term and what is said of it."""

    term: str
    text: str
