"""Scripts and styles of the page, from this package and from the installed packages plotly and itables.

None of them can end the element that it stands in, so that the template inserts them as they are.
"""

import importlib.resources
import re

from plotly.offline import get_plotlyjs


def own(name: str) -> str:
    """A file of ours in static/, page.css or page.js."""
    return importlib.resources.files("curvexp.report.page").joinpath("static", name).read_text(encoding="utf-8")


def plotly() -> str:
    """plotly.js."""
    return _inside("script", str(get_plotlyjs()))


def datatables(kind: str) -> str:
    """DataTables from the bundle in the package itables, `css` or `js`; the default export of the latter is put on window.

    Raises:
        RuntimeError: the bundle has no default export.
    """
    text = importlib.resources.files("itables").joinpath("html", f"dt_bundle.{kind}").read_text(encoding="utf-8")
    if kind == "css":
        return _inside("style", text)
    exported = re.search(r"export\s*\{[^}]*?([\w$]+) as default[^}]*\};?", text)
    if exported is None:
        raise RuntimeError("itables: dt_bundle.js has no default export; expected one, as in itables 2.9")
    text = text[: exported.start()] + f"window.DataTable={exported.group(1)};" + text[exported.end() :]
    return _inside("script", text)


def _inside(element: str, text: str) -> str:
    """The text without an end tag of the element."""
    return text.replace(f"</{element}", f"<\\/{element}")
