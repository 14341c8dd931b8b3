"""What the host makes of a block: each record of its runs, and where they stop."""

from collections.abc import Iterator
from typing import Any

import jax

from curvexp.training.account import Account
from curvexp.training.loop import Shown
from curvexp.training.pace import Span
from curvexp.training.rows import Block
from curvexp.training.state import LateState, State


class Visit:
    """What the host makes of one part's block: it waits for it, and gives each record of the runs that are alive."""

    def __init__(self, block: Block, going: list[Account]) -> None:
        self.block = block
        self.accounts = [going[number] for number in block.part.numbers]
        self.shown = self._read(block)
        self.again: tuple[Block, Shown] | None = None

    def _read(self, block: Block) -> Shown:
        packed = jax.device_get(block.shown)
        if block.part.axes is None:
            packed = {name: array[None] for name, array in packed.items()}
        return Shown(packed, self.accounts[0].seen)

    def follow(self, span: Span) -> None:
        """Finds where runs stop; within a stretch between records these make the block again, up to there."""
        shown, steps, ends = self.shown, span.until - span.begun, len(span.ends)
        within = {}
        for row, account in enumerate(self.accounts):
            if account.alive:
                losses, loss = shown.losses[row, :steps], shown.loss[row, :ends]
                last = account.follow(losses, loss, span.ends, recorded=span.recorded)
                if last is not None and last not in span.ends:
                    within[row] = last
        if within:
            block = self.block.again(self.accounts[0].kind, within)
            self.again = block, self._read(block)

    def records(
        self, number: int, begun: int, end: int, *, due: bool, recorded: bool
    ) -> Iterator[tuple[Account, State | LateState, dict[str, Any], bool]]:
        """What `Account.record` takes, of the runs that have a record in the block's stretch `number`, after step `begun` up to `end`."""
        for row, account in enumerate(self.accounts):
            if not account.alive:
                continue
            stops = account.last is not None and account.last <= end
            step = account.last if account.last is not None and stops else end
            account.passes(number, step)
            if step == end:
                state, shown = self.block.state(row, number, step), self.shown.of(row, number)
            else:
                assert self.again is not None
                block, again = self.again
                last = len(block.span.ends) - 1
                state, shown = block.state(row, last, step), again.of(row, -1)
                if not account.minibatch:  # as it was judged: on some devices sums are not the same again
                    shown["loss"] = self.shown.losses[row, step - block.span.begun - 1].item()
            if stops:
                account.stops(shown)
            if stops or recorded or end != self.block.span.until:
                yield account, state, shown, due
