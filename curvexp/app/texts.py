"""Texts in the place of numbers and other values, as all variables of the environment are: a refusal says so."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from curvexp.errors import ConfigError


@contextlib.contextmanager
def told(config: dict[str, Any]) -> Iterator[None]:
    """A refusal within says of a value that came as text that it is text."""
    try:
        yield
    except ConfigError as error:
        said, texts = str(error), misread(config, "")
        key = re.match(r"[\w.]+", said)
        # the message begins with the key, or with the part that the key lies in, which its _target_ may stand for
        part = key[0].removesuffix("._target_") if key else ""
        named = [name for name in texts if part and (part in (name, _long(name)) or name.startswith(f"{part}."))]
        if not named or re.search("expected (one of|float32)", said):  # a text is right there
            raise
        what, decoded = ", ".join(f"{name}='{texts[name]}'" for name in named), "${oc.decode:${oc.env:NAME}}"
        raise type(error)(
            f"{said.rstrip('.')}. {what} is text, as is every variable of the environment: write the value without quotes, or as "
            f"'{named[0]}=\"{decoded}\"' for a variable."
        ) from error


def _long(name: str) -> str:
    """The key as optax names it: optim.lr stands for optim.learning_rate."""
    return "optim.learning_rate" if name == "optim.lr" else name


def misread(node: Any, prefix: str) -> dict[str, str]:
    """The texts of a config that a person reads as a number, null, true, false, a list or a mapping, by key."""
    if isinstance(node, str):
        return {prefix: node} if _looks_like_a_value(node) else {}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found: dict[str, str] = {}
    for key, value in items:
        found |= misread(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _looks_like_a_value(text: str) -> bool:
    if re.fullmatch(r"null|true|false|\[.*\]|\{.*\}", text.strip(), re.IGNORECASE | re.DOTALL):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
