"""Reading files that a stranger may have made: no link is followed, nothing in them is run, their sizes are bounded.

What cannot be read is told as `Unreadable`, or as a text of what is wrong, so that one damaged run keeps no other from being read.
"""

import errno
import itertools
import json
import operator
import os
import re
import stat
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from curvexp.store import files

PARTS_OF_A_RUN = frozenset({".hydra", "wandb", files.CHECKPOINTS})  # its folders in which no other run is looked for
LARGEST_JSON = 2**24  # bytes of a summary or config that is still read
LARGEST_RECORDS = 2**30  # bytes of a .jsonl file that is still read
MOST_KEYS = (
    10_000  # keys of a summary, a config or a metrics file that are still read; and of all runs of a folder together
)
LONGEST_KEY = 1000  # characters of one, with those above it
MOST_LINES = 10**7  # of a .jsonl file that are still read


def run_folders(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Every run's folder under root in natural order, and every folder that cannot be listed, with the reason."""
    for folder, found, problem in _listed(root):
        if problem is not None or not found.isdisjoint(files.MARKS):
            yield folder, problem


def named(root: Path, name: str) -> Iterator[Path]:
    """Every file of this name under root, in natural order of folders; it may be a link, or no file at all."""
    for folder, found, _ in _listed(root):
        if name in found:
            yield folder / name


def _listed(root: Path) -> Iterator[tuple[Path, Set[str], str | None]]:
    """Every folder under root with the names in it, or why it cannot be listed; no link is followed, however deep it goes."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError as error:
            yield Path(folder), set(), f"cannot be listed: {error.strerror}"
            continue
        run = not found.keys().isdisjoint(files.MARKS)
        yield Path(folder), found.keys(), None
        inner = [name for name, is_folder in found.items() if is_folder and not (run and name in PARTS_OF_A_RUN)]
        waiting.extend(os.path.join(folder, name) for name in sorted(inner, key=_natural, reverse=True))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


class Unreadable(Exception):
    """A file that is damaged, or not of a run; the text is the reason."""


def read(path: Path, *, largest: int) -> bytes:
    """The bytes of a regular file; no link is followed, no pipe waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(path, flags)
    except OSError as error:
        why = "is a link, and links are not followed" if error.errno == errno.ELOOP else error.strerror
        raise Unreadable(f"{path.name}: {why}") from error
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_size > largest:
        os.close(file)
        regular = stat.S_ISREG(about.st_mode)
        raise Unreadable(f"{path.name}: " + (f"over {largest} bytes" if regular else "not a regular file"))
    with open(file, "rb") as stream:
        return stream.read()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, flattened: {"a": {"b": 1}} as {"a.b": 1}, lists as JSON text."""
    try:
        value = json.loads(read(path, largest=LARGEST_JSON))
        if not isinstance(value, dict):
            raise Unreadable(f"{path.name}: expected a JSON object, got {type(value).__name__}")
        flat = dict(itertools.islice(_leaves(value, ""), MOST_KEYS + 1))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name}: not JSON ({type(error).__name__})") from error
    if len(flat) > MOST_KEYS:
        raise Unreadable(f"{path.name}: more than {MOST_KEYS} keys")
    return flat


def _leaves(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = prefix + clean(key)
        if len(name) > LONGEST_KEY:
            raise Unreadable(f"the key {name[:50]}… has more than {LONGEST_KEY} characters")
        if isinstance(item, dict):
            yield from _leaves(item, f"{name}.")
        elif isinstance(item, list):
            yield name, clean(json.dumps(item, ensure_ascii=False))
        else:
            huge = type(item) is int and not -(2**63) <= item < 2**63
            yield name, clean(item) if isinstance(item, str) else to_float(item) if huge else item


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a .jsonl file that are objects with a step, and what is wrong with it."""
    if not os.path.lexists(path):
        return [], []
    try:
        content = read(path, largest=LARGEST_RECORDS)
        if content.count(b"\n") > MOST_LINES:
            raise Unreadable(f"{path.name}: over {MOST_LINES} lines")
        *lines, _ = content.split(b"\n")
    except Unreadable as error:
        return [], [str(error)]
    try:  # as one document: many times as fast as line by line; orjson takes no NaN and no half of a surrogate pair, json does
        rows = orjson.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) != len(lines):
        rows = [_line(line) for line in lines]
    whole = rows if _all_whole(rows) else [row for row in rows if _all_whole([row])]
    damaged = len(lines) - len(whole)
    return whole, [f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)}"] if damaged else []


def _all_whole(rows: list[Any]) -> bool:
    """Whether all are objects with a step that 64 bits hold."""
    if not set(map(type, rows)) <= {dict}:
        return False
    try:
        steps = list(map(operator.itemgetter("step"), rows))
    except KeyError:
        return False
    return set(map(type, steps)) <= {int} and (not steps or -(2**62) < min(steps) <= max(steps) < 2**62)


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def clean(text: str) -> str:
    """The text as valid Unicode: file names and JSON escapes can hold halves of surrogate pairs, which no writer accepts."""
    return text.encode("utf-8", "replace").decode()


def floats(values: Sequence[Any]) -> np.ndarray:
    """float64, (len(values),): NaN for what is no number."""
    try:
        array = np.array(values, np.float64)  # None becomes NaN
        if array.ndim == 1:
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    return np.array([to_float(value) for value in values], np.float64)


def to_float(value: Any) -> float:
    if not isinstance(value, int | float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def operator_in(row: dict[str, Any]) -> str:
    """The operator that a line of spectrum.jsonl is of; the Hessian where the line does not say it."""
    found = row.get("operator")
    return clean(found) if isinstance(found, str) else "hessian"
