"""A finding on the screen, as Markdown, and as files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curvexp import console
from curvexp.study.claim import FAIL, PASS, Finding

WIDE = 110  # columns from which on a claim has a line
COLOURS = {PASS: "green", FAIL: "bold red"}


def table(finding: Finding) -> Group:
    """The finding's claims, a line each."""
    parts: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{_colour(finding.verdict, finding.study)}[/]: {_colour(finding.verdict)} in {finding.seconds:.1f} s"
        )
    ]
    if console.out().width >= WIDE:
        found = Table(box=None, padding=(0, 2, 0, 0))
        found.add_column("statement", overflow="fold")
        for name in ("theory", "measured", "95 % interval", "allowed", "verdict"):
            found.add_column(name, no_wrap=True)
        for claim in finding.claims:
            cells = [console.printable(cell) for cell in _cells(claim)]
            found.add_row(*cells[:-1], _colour(claim["verdict"]))
        parts.append(found)
    else:  # the statement on lines of its own, the numbers below it
        for claim in finding.claims:
            statement, theory, measured, between, allowed, _ = (console.printable(cell) for cell in _cells(claim))
            numbers = [f"theory {theory}", f"measured {measured} {between}".rstrip(), *([allowed] if allowed else [])]
            parts.append(Text.from_markup(f"{_colour(claim['verdict'])}  {statement}"))
            parts.append(Padding(Text.from_markup(", ".join(numbers), style="dim"), (0, 0, 0, 6)))
    return Group(*parts)


def _colour(verdict: str, text: str | None = None) -> str:
    return f"[{COLOURS.get(verdict, 'yellow')}]{console.printable(verdict if text is None else text)}[/]"


def markdown(findings: Sequence[Mapping[str, Any]]) -> str:
    """A summary table over the findings, then a section with the claims of each."""
    lines = ["| # | study | verdict | claims passed | seconds |", "|---|---|---|---|---|"]
    for finding in findings:
        passed = sum(claim["verdict"] == PASS for claim in finding["claims"])
        lines.append(
            f"| {finding['number'] or ''} | [{finding['study']}](#{finding['study']}) | {finding['verdict']} | "
            f"{passed}/{len(finding['claims'])} | {finding['seconds']:.1f} |"
        )
    for finding in findings:
        lines += ["", f"## {finding['study']}", "", f"{finding['statement']} ({finding['source']})", ""]
        lines += ["| statement | theory | measured | 95 % interval | allowed | verdict |", "|---|---|---|---|---|---|"]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(claim)) + " |" for claim in finding["claims"]
        ]
        reasons = dict.fromkeys(claim["tolerance"] for claim in finding["claims"])
        lines += ["", *(f"- {reason}" for reason in reasons)]
    return "\n".join(lines) + "\n"


def write(finding: Finding, data: Mapping[str, Any], folder: Path) -> None:
    """finding.json and data.json in `folder`, the finding last: where it stands, the study is done."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(_plain(data)), encoding="utf-8")
    part = folder / "finding.json.part"
    part.write_text(json.dumps(_plain(finding._asdict()), indent=1, ensure_ascii=False), encoding="utf-8")
    part.replace(folder / "finding.json")


def _cells(claim: Mapping[str, Any]) -> list[str]:
    relation = "" if claim["relation"] == "=" else f"{claim['relation']} "
    interval = claim["interval"]
    count = f" (worst of {claim['values']})" if claim["values"] > 1 else ""
    return [
        claim["statement"],
        relation + console.number(claim["prediction"], 5),
        console.number(claim["measurement"], 5) + count,
        f"[{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "",
        "" if claim["allowed"] is None else f"± {claim['allowed']:.2g}",
        claim["verdict"],
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return value
