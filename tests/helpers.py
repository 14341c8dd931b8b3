"""What several test files call."""

import sys

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
