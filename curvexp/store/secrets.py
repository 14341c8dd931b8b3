"""What stays out of a run's folder: the values of environment variables that are named as secrets are."""

import os
import re
from typing import Any

from curvexp.errors import ConfigError

NAMED = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
SHORTEST = 8  # characters of a value that is taken for a secret


def check(config: Any, *, path: str = "") -> None:
    """Refuses a config that holds such a value: it would be recorded, and shown by whatever reads the folder.

    Raises:
        ConfigError: naming the key and the variable, not the value.
    """
    secrets = _secrets()
    if secrets:
        _check(config, secrets, path)


def hidden(text: str) -> str:
    """The text with the name of the variable for each such value."""
    for name, value in _secrets().items():
        text = text.replace(value, f"${name}")
    return text


def _check(node: Any, secrets: dict[str, str], path: str) -> None:
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, part in parts:
        _check(part, secrets, f"{path}.{key}" if path else str(key))
    for name, value in secrets.items() if isinstance(node, str) else ():
        if value in node:
            raise ConfigError(
                f"{path}: holds the value of the environment variable {name}, and would be recorded with it; expected what others may "
                f"read. Change {path}, or {name} where it is no secret."
            )


def _secrets() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if NAMED.search(name) and len(value) >= SHORTEST}
