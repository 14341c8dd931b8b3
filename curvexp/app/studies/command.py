"""The studies from a shell: `python -m curvexp +study=NAME` and the list of `python -m curvexp.study`."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from curvexp import console
from curvexp.app import keys
from curvexp.app.studies.files import compose, listed, perform
from curvexp.app.studies.show import table, write
from curvexp.errors import ConfigError
from curvexp.store import files
from curvexp.study.claim import FAIL

_NAMED = re.compile(r"\+{0,2}study=(.*)")


def asked_for(overrides: Sequence[str]) -> bool:
    """Whether an override chooses a study."""
    return any(_NAMED.fullmatch(override) for override in overrides)


def run(overrides: Sequence[str], *, config_dir: str | None = None) -> int:
    """Runs the studies that `+study=A,B` names and prints their tables.

    Returns:
        The exit code: 0, 1 where a verdict is fail, 2 for what was refused.
    """
    chosen = [match.group(1) for override in overrides if (match := _NAMED.fullmatch(override))]
    rest = [override for override in overrides if not _NAMED.fullmatch(override)]
    try:
        for override in rest:
            if not override.startswith(("study.", "+study.", "hydra.")):
                raise ConfigError(f"{override}: a study takes study.KEY=VALUE and hydra.run.dir=DIR alone. Remove it.")
        studies = [compose(name, rest, config_dir=config_dir) for name in chosen[-1].split(",")]
        for study in studies:
            keys.check_writable(study.folder, "hydra.run.dir")
        failed = False
        for study in studies:
            folder = study.folder / study.name if len(studies) > 1 else study.folder
            try:
                finding, data = perform(study._replace(folder=folder))
            except ConfigError:
                raise
            except KeyboardInterrupt:
                if study.runs:
                    where = console.printable(_short(folder))
                    console.err().print(f"The same command goes on with the runs that are in it: hydra.run.dir={where}")
                raise
            except (Exception, SystemExit) as error:  # of a study's own code, which may also exit
                folder.mkdir(parents=True, exist_ok=True)
                (folder / files.TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
                why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
                console.refuse(f"study={study.name}: {why}\nThe traceback is in {_short(folder / 'traceback.txt')}.")
                failed = True
                continue
            write(finding, data, folder)
            console.out().print(table(finding))
            runs = f"; its runs: python -m curvexp.report {console.printable(_short(folder))}" * bool(study.runs)
            console.out().print(f"in {console.printable(_short(folder))}{runs}")
            failed |= finding.verdict == FAIL
    except ConfigError as error:
        console.refuse(str(error))
        return 2
    return int(failed)


def listing(config_dir: str | None = None) -> int:
    """Prints the studies, a line each; the exit code."""
    try:
        for name, (number, statement) in listed(config_dir).items():
            first = "" if number is None else str(number)
            line = f"{first:>2} [bold]{console.printable(name):20}[/] {console.printable(statement)}"
            console.out().print(line, soft_wrap=True)
    except ConfigError as error:
        console.refuse(str(error))
        return 2
    return 0


def _short(folder: Path) -> Path:
    folder = folder.absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
