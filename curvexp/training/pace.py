"""How long a block is: its steps, its records, and where it ends.

An accelerator takes about a millisecond for a visit of the host, as long as 40 steps of a small network. So a block has as many records as
TARGET allows, and ends at a reading of the probe. A clock decides how many these are; no number of the training depends on it.
"""

import math
import weakref
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

TARGET = 0.2  # seconds of a block, so that the bar, the files and Ctrl-C keep up
SIZES = tuple(8**power for power in range(7))  # records of a block: few, so that few programs are compiled
VISITS = 1000  # that a longer program has to save: about a second, by 1 ms a visit on a GPU, which is what its compilation takes
MOST_LENGTHS = 4  # programs of one training
WASTE = 0.1  # of the steps that a block may make for nothing before a shorter program is compiled
GAPS = 256  # between records that are looked at for it


_remembered: weakref.WeakKeyDictionary[Any, dict[Hashable, int]] = weakref.WeakKeyDictionary()


def remembered(loss: object) -> dict[Hashable, int]:
    """The sizes of blocks that this process found for trainings of a loss: another one has the same, for which there are programs."""
    try:
        return _remembered.setdefault(loss, {})
    except TypeError:  # there is no weak reference to it, or it has no hash
        return {}


class Span(NamedTuple):
    """A block to be made.

    Attributes:
        begun, until: steps made before it, and at its end. ends: the steps of its records, ascending, the last of them `until`.
        recorded: whether there is a record at the last of them; False within a stretch that no block is long enough for.
        due: whether a reading is. records, length: the program's: its records, and the steps of each.
    """

    begun: int
    until: int
    ends: Sequence[int]
    recorded: bool
    due: bool
    records: int
    length: int


class Pace:
    """The blocks of a training, one after the other.

    Attributes:
        lengths: steps of a record's stretch that programs are compiled for. size: about how many records a block has, one of SIZES.
        records: as many as its program has.
    """

    def __init__(
        self, *, steps: int, done: int, record_every: int, probe_every: int | None, most_steps: int, most_records: int
    ) -> None:
        """The pace of a run that stands at step `done`, with as few records a block as may be.

        Args:
            steps: of the whole run. record_every, probe_every: steps between records, and between readings; None: there are none.
            most_steps: no longer block than this. most_records: nor one of more records.
        """
        self.steps, self.record_every, self.probe_every = steps, record_every, probe_every
        self.lengths = block_lengths(record_every, probe_every, most=min(steps, most_steps))
        length = self.lengths[-1]
        even = length == record_every and (probe_every is None or probe_every % record_every == 0)
        # records in a row that no reading parts; of a run with readings the same wherever it stands
        self.stretch = (probe_every // length if probe_every else -(-(steps - done) // length)) if even else 1
        self.most = min(self.stretch, max(most_records, 1), max(most_steps // length, 1))
        # a loop of one iteration is no loop to XLA, which may then fuse what is around it otherwise: other bits than in a longer block.
        # So a block has two records at least, wherever one of the same training may have: no clock decides between one and more
        several = even and min(most_records, most_steps // length) > 1
        self.least = 2 if several and (self.stretch > 1 or (not probe_every and (done > 0 or length == 1))) else 1
        self.size, self.quickest, self.timed = 1, math.inf, 0
        self.records = self._balanced(1)

    def start(self, seconds: float) -> None:
        """Sets the records of the blocks by what one record takes at most, before any block is made."""
        self.resize(self._size(seconds))

    def resize(self, size: int) -> None:
        """Sets about how many records the blocks have from now on, one of SIZES."""
        self.size, self.quickest, self.timed = size, math.inf, 0
        self.records = self._balanced(size)

    def span(self, done: int) -> Span:
        """The block after step `done`."""
        every = (self.record_every, self.probe_every or self.record_every)
        nearest = next_record(done, *every)
        if self.stretch > 1 and done % self.record_every == 0:
            limit = next_record(done, self.probe_every) if self.probe_every else self.steps
            until = min(self.steps, limit, done + self.records * self.record_every)
            length = self.record_every
        else:
            until = min(self.steps, nearest, done + self.lengths[-1])
            length = next(length for length in self.lengths if length >= until - done)
        ends = (*range(done + length, until, length), until)
        recorded = until == self.steps or any(until % number == 0 for number in every)
        due = self.probe_every is not None and until % self.probe_every == 0
        return Span(done, until, ends, recorded, due, self.records, length)

    def took(self, span: Span, seconds: float) -> bool:
        """Learns what a block took; whether the next ones have more records, because these save VISITS of what is still to come."""
        if len(span.ends) < span.records or span.records != self.records or self.records >= self.most:
            return False
        self.quickest, self.timed = min(self.quickest, seconds / span.records), self.timed + 1
        if self.timed < 3:  # the first one was compiled
            return False
        size = self._size(self.quickest)
        left = (self.steps - span.until) / self.lengths[-1]
        if size <= self.size or left * (1 / self.records - 1 / size) < VISITS:
            return False
        self.resize(size)
        return True

    def _size(self, seconds: float) -> int:
        """Records that take TARGET seconds at most, where one takes so many."""
        return max(size for size in SIZES if size == 1 or size * seconds <= TARGET)

    def _balanced(self, size: int) -> int:
        """Records of blocks of about `size`, such that a stretch leaves little of its last block over."""
        size = max(min(size, self.most), self.least)
        even = max(-(-self.stretch // -(-self.stretch // size)), self.least)  # of as few blocks as with `size`
        return min(
            range(even, max(even // 2, even - 64, self.least - 1), -1), key=lambda records: -self.stretch % records
        )


def block_lengths(record_every: int, probe_every: int | None, *, most: int) -> tuple[int, ...]:
    """Lengths of the blocks that a training is compiled for, ascending; a stretch between records goes with the next longer one.

    They do not depend on the steps of the run, unless these are fewer than the longest: a run that goes on meets the same programs.

    Args:
        record_every, probe_every: steps between records, and between readings, which have one too. most: no longer than this.

    >>> block_lengths(10, 100, most=1000), block_lengths(10, 97, most=1000), block_lengths(5, 7, most=1000)
    ((10,), (10,), (1, 2, 3, 5))
    """
    probe_every = probe_every or record_every
    longest = min(record_every, probe_every, most)
    done = 0
    gaps: list[int] = []
    while len(gaps) < GAPS:
        until = next_record(done, record_every, probe_every)
        gaps.append(min(until - done, longest))
        done = until
        if done % record_every == done % probe_every == 0:
            break

    def waste(lengths: Sequence[int]) -> int:
        return sum(min(length for length in lengths if length >= gap) - gap for gap in gaps)

    found: tuple[int, ...] = (longest,)
    while len(found) < MOST_LENGTHS and waste(found) > WASTE * sum(gaps):
        found = min((tuple(sorted({*found, gap})) for gap in set(gaps) - set(found)), key=waste)
    return found


def next_record(done: int, *every: int) -> int:
    """The next step that is a multiple of one of these."""
    return min((done // number + 1) * number for number in every)
