"""What several test files call."""

import sys

import jax

from curvexp.__main__ import main


def call(*arguments: str) -> int:
    """The exit code of the command line, run in this process."""
    before = sys.argv
    sys.argv = ["curvexp"]
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


def waits(compiled: jax.stages.Compiled) -> list[str]:
    """Lines of a compiled program at which a GPU would wait for its host: loops of unknown trip count, and branches."""
    lines = [line.strip() for line in compiled.as_text().splitlines()]
    loops = [line for line in lines if " while(" in line and "known_trip_count" not in line]
    return loops + [line for line in lines if " conditional(" in line]
