"""Writes the tables of docs/ledger.md anew, from the descriptions in curvexp/quantities.py.

    python scripts/quantity_tables.py

A table stands under the heading of its group; everything else in the document stays.
"""

from pathlib import Path

from curvexp import quantities

DOCUMENT = Path(__file__).parents[1] / "docs" / "ledger.md"
GROUPS = {
    "## A direction: `ledger` in spectrum.jsonl": quantities.DIRECTION,
    "### Loss": quantities.LOSS,
    "### The end of a run": quantities.OUTCOME,
    "### Stability": quantities.STABILITY,
    "### Spectrum": quantities.SPECTRUM,
    "### The coming step": quantities.STEP,
    "### Directions": quantities.DIRECTIONS,
    "### Minibatches": quantities.NOISE,
    "### Cost": quantities.COST,
}


def written(text: str) -> str:
    """The document with its tables as the descriptions have them."""
    for heading, group in GROUPS.items():
        before, after = text.split(f"\n{heading}\n", 1)
        first = after.index("| key |")
        end = after.index("\n\n", first)
        text = f"{before}\n{heading}\n{after[:first]}{quantities.table(group)}{after[end:]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
