"""The README's picture of a run: what a terminal shows, as SVG. python scripts/picture.py docs/run.svg"""

import os
import pty
import re
import subprocess
import sys

from rich.console import Console
from rich.text import Text

WORDS = ["problem=mlp", "optim=momentum"]
WIDTH = 118


def main() -> None:
    master, slave = pty.openpty()
    typed = [sys.executable, "-m", "curvexp", *WORDS]
    size = {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    with subprocess.Popen(typed, stdout=slave, stderr=slave, env={**os.environ, **size}) as process:
        os.close(slave)
        seen = b""
        while chunk := _read(master):
            seen += chunk
        assert process.wait() == 0, seen.decode()
    text = seen.decode().replace("\r\n", "\n")
    lines = [re.sub(r"\x1b\[\??[0-9;]*[A-Za-ln-z]", "", piece) for piece in re.split(r"[\r\n]+", text)]
    bars = [line for line in lines if "━" in line and "loss" in line]
    notes = [line for line in lines if line.strip() and "━" not in line]
    plain = [notes[0], bars[len(bars) // 2], *notes[1:]]
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text("$ python -m curvexp " + " ".join(WORDS), style="bold"))
    for line in plain:
        if line.strip():
            console.print(Text.from_ansi(line), soft_wrap=True)
    picture = console.export_svg(title="curvexp")
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # the picture loads nothing
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(picture)


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""


if __name__ == "__main__":
    main()
