"""`python -m curvexp`: see `curvexp.app.cli`."""

from curvexp.app.cli import command as command
from curvexp.app.cli import main as main

if __name__ == "__main__":
    command()
