"""What a person types, or a launcher says, to go on with a run or a sweep."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvexp.app.resume.trust import ALL


def again(sweep: Path) -> list[str]:
    """The overrides by which a launcher starts a job of its sweep once more: it goes on, and its config is this command's own."""
    return [f"resume={quoted(sweep)}", f"trust=['{ALL}']"]


def command(folder: Path, *, sweep: bool, flags: Sequence[str] = (), trust: Sequence[str] = ()) -> str:
    """What a person types to go on with a run or a sweep, quoted for a shell.

    Args:
        flags: such as --config-dir. trust: packages besides curvexp's own that the config names.

    >>> print(command(Path("multirun/a b"), sweep=True, trust=["mylab"]))
    python -m curvexp -m 'resume='"'"'multirun/a b'"'"'' trust=mylab
    """
    plain = re.fullmatch(r"[\w./-]*[A-Za-z_/-][\w./-]*", str(folder), re.ASCII)
    words = [*flags, *["-m"] * sweep, f"resume={folder if plain else quoted(folder)}"]
    if trust:
        words.append(f"trust={trust[0]}" if len(trust) == 1 else f"trust=[{','.join(trust)}]")
    return shlex.join(["python", "-m", "curvexp", *words])


def of_sweep(config: Any, trust: Sequence[str] = ()) -> str:
    """`command` for the sweep that Hydra runs by this config; `trust` names packages that its jobs need besides."""
    runtime, flags = config.hydra.runtime, []
    for source in runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", _short(Path(str(source.path)))]
    if config.hydra.job.config_name != "config":
        flags += ["--config-name", str(config.hydra.job.config_name)]
    return command(Path(_short(Path(str(config.hydra.sweep.dir)))), sweep=True, flags=flags, trust=trust)


def _short(path: Path) -> str:
    """The path from here where it lies below."""
    found = os.path.relpath(path)
    return str(path.absolute()) if found.split(os.sep)[0] == os.pardir else found


def quoted(path: Path) -> str:
    """A path as the value of an override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]
