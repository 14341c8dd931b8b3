"""The list of studies: python -m curvexp.study [--config-dir DIR]"""

import argparse
import sys

from curvexp import console, home
from curvexp.app.studies.command import listing


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 where --config-dir is no folder or holds a study that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m curvexp.study", description="Lists the studies; python -m curvexp +study=NAME runs one."
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of option files of yours, with study/NAME.yaml")
    return listing(parser.parse_args(arguments).config_dir)


def command() -> int:
    """`python -m curvexp.study`: `main` on what was typed, for any stream and any user."""
    home.ensure()
    with console.any_stream():
        return main()


if __name__ == "__main__":
    sys.exit(command())
