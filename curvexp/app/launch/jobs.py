"""A sweep's jobs as their overrides say: which are composed together, and which numbers vary."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType


class Job(NamedTuple):
    """One job of a sweep: its number in it, its overrides as typed and as Hydra reads them."""

    number: int
    overrides: tuple[str, ...]
    parsed: tuple[Override, ...]

    @property
    def varied(self) -> dict[str, Any]:
        """The overrides that set a number of an option, by key."""
        return {str(o.key_or_group): o.value() for o in self.parsed if sets_number(o)}

    @property
    def overruled(self) -> bool:
        """Whether a later override sets one of these numbers too, itself or the part that it lies in; an option of a group does not."""
        keys = [str(o.key_or_group) for o in self.parsed]
        return any(
            key == later or (key.startswith(f"{later}.") and not isinstance(other.value(), str))
            for at, (key, number) in enumerate(zip(keys, self.parsed, strict=True))
            if sets_number(number)
            for later, other in zip(keys[at + 1 :], self.parsed[at + 1 :], strict=True)
        )

    @property
    def like(self) -> tuple[str, ...]:
        """What jobs that are composed together have in common: all other overrides, and which numbers are set."""
        return tuple(
            str(o.key_or_group) if sets_number(o) else text for o, text in zip(self.parsed, self.overrides, strict=True)
        )


def read(batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """A sweep's jobs from their overrides; the first has the number `first`."""
    return [
        Job(number, tuple(overrides), tuple(parsed(text) for text in overrides))
        for number, overrides in enumerate(batch, first)
    ]


def distinct(batch: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """One of the jobs for each way to compose them: numbers aside, what is legal for one is legal for all."""
    found: dict[tuple[str, ...], Sequence[str]] = {}
    for job, overrides in zip(read(batch), batch, strict=True):
        found.setdefault(job.like, overrides)
    return list(found.values())


@functools.lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def sets_number(override: Override) -> bool:
    """Whether it sets a key of ours to a number, which changes nothing else in the composition."""
    value = override.value()
    return (
        override.type == OverrideType.CHANGE
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and override.package is None
        and not str(override.key_or_group).startswith("hydra")
    )
