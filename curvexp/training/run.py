"""The training loop: yields records. It sees no file, no W&B and no config, and a clock for the length of its blocks alone.

A run is a row: `run_many` carries runs of equal structure through one compiled program, and `run` is `run_many` of one. Between two
visits of the host all rows make a known number of steps on the device, with as many records as take about 0.2 s; while the host reads a
block, the device makes the next one.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Literal

import jax
import optax

from curvexp import memory as memories
from curvexp.linalg.lapack import one_thread, thread_settings
from curvexp.linalg.layout import devices_of
from curvexp.optim import Optimizer
from curvexp.probe import Probe
from curvexp.problem import Problem
from curvexp.record import Record
from curvexp.training.account import Account, Run, check_run
from curvexp.training.loop import Kind
from curvexp.training.pace import Pace, Span, remembered
from curvexp.training.rows import Block, Launched, Parts, cores, side_by_side
from curvexp.training.state import LateState, Snapshot, State
from curvexp.training.structure import check_equal, parameters
from curvexp.training.visit import Visit
from curvexp.types import RandomKey

MOST_ORDERS = 2**24  # examples in the orders that a block draws beforehand, 64 MB
MOST_STATES = 2**26  # bytes of the states that a block keeps for its records, where these are several


def run(
    problem: Problem,
    optimizer: Optimizer | optax.GradientTransformation,
    probe: Probe | None = None,
    *,
    steps: int,
    key: RandomKey | int,
    batch_size: int | None = None,
    record_every: int = 10,
    target: float | Literal["auto"] | None = "auto",
    diverge_at: float = 1e6,
    matmul_precision: str = "highest",
    clock: Callable[[], float] | None = None,
    resume: Snapshot | None = None,
) -> Iterator[Record]:
    """Records of a training run; the last one carries its `Outcome`.

    Args:
        problem: what is minimised.
        optimizer: its `auto` numbers are chosen here, see `tune`; or any optax transformation, of which no theory is known.
        probe: what is measured of the curvature; None measures nothing.
        steps: most updates made.
        key: of initialization, batch order and probes: one key, one run; an integer is that of jax.random.key.
        batch_size: examples a step, drawn without replacement in epochs; None takes them all.
        record_every: steps between records; the first, the last and every probed step have one too.
        target: where the minimum f* is known, a fraction of the initial loss − f*, else a loss; the run stops there. `auto` measures
            steps_to_target against 1e-3 (where f* is not known: 0.1) and does not stop.
        diverge_at: the run ends as `diverged` when loss − f* passes this multiple of its initial value; with minibatches at a record.
        matmul_precision: of the training's matrix products and convolutions, whatever `jax_default_matmul_precision` says: "highest", all
            bits of the dtype on every device; "tensorfloat32" or "bfloat16", fewer on a device that has them, the same bits on a CPU.
            The curvature is always measured with all bits.
        clock: seconds, such as time.perf_counter: what a reading takes of them is recorded as probe_seconds; None records none.
        resume: the snapshot of a record of this same run: what follows that record is yielded, bit for bit on the same machine.

    Yields:
        Record at step 0 (a resumed run has had it), at every multiple of `record_every` and `probe.every`, and at the end; `state` is
        the training state there.

    Raises:
        ConfigError: a value outside its range, or of another kind, before any compute.

    >>> import jax
    >>> from curvexp import optim, preprocess, problem
    >>> bowl = problem.bowl(preprocess=preprocess.raw())
    >>> [record.step for record in run(bowl, optim.sgd(lr=0.1), steps=25, key=jax.random.key(0))]
    [0, 10, 20, 25]
    """
    one = Run(problem, optimizer, key, probe, target, diverge_at, resume)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "record_every": record_every,
        "matmul_precision": matmul_precision,
    }
    rows = run_many([one], steps=steps, clock=clock, **settings)
    return (record for records in rows for record in records)


def run_many(
    runs: Sequence[Run],
    *,
    steps: int,
    batch_size: int | None = None,
    record_every: int = 10,
    matmul_precision: str = "highest",
    clock: Callable[[], float] | None = None,
    memory: float | None = None,
    failed: Callable[[int, BaseException], None] | None = None,
) -> "Rows":
    """Records of several runs of equal structure, which one compiled program carries as its rows: a grid over seeds, learning rates, data.

    A run's numbers are those that it has alone, to rounding: a product of matrices sums in another order where it is one of several. A run
    that has ended is frozen, and yields no more records.

    Args:
        runs: that differ in numbers alone; `training.by_structure` parts others. Arrays that are equal in all runs are held once.
        steps, batch_size, record_every, matmul_precision, clock: as for `run`, the same for all.
        memory: bytes that the programs may take together; None: half of what the device has free. Runs that do not fit, by the
            compiler's own account, go in equal parts.
        failed: (number of the run, what it raised) is called where a run's own code raises, such as its probe; the other runs go on. None:
            it is raised, and all end.

    Returns:
        an iterator over lists of records, one for each run that has a record at that step; `record.row` is the number of its run.

    Raises:
        ConfigError: a value outside its range. ValueError: runs of unequal structure. Both before any compute.

    >>> import jax
    >>> from curvexp import optim, preprocess, problem
    >>> bowl = problem.bowl(preprocess=preprocess.raw())
    >>> grid = [Run(bowl, optim.sgd(lr=lr), jax.random.key(seed)) for lr in (0.05, 0.1, 1.0) for seed in (0, 1)]
    >>> ends = [record for records in run_many(grid, steps=100) for record in records if record.outcome]
    >>> {record.row: record.outcome.status for record in ends}
    {4: 'diverged', 5: 'diverged', 0: 'completed', 1: 'completed', 2: 'completed', 3: 'completed'}
    """
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "matmul_precision": matmul_precision}
    for one in runs:
        check_run(one, record_every=record_every, **settings)
    check_equal(runs, batch_size)
    accounts = [Account(row, one, clock=clock, **settings) for row, one in enumerate(runs)]
    return Rows(accounts, steps=steps, record_every=record_every, memory=memory, failed=failed)


class Rows(Iterator[list[Record]]):
    """What `run_many` gives: iterate over it for the records.

    Attributes:
        alone: why the runs go one by one, where vmap has no rule for a function of theirs; else None. Known after the first records.
    """

    def __init__(
        self,
        accounts: list[Account],
        *,
        steps: int,
        record_every: int,
        memory: float | None,
        failed: Callable[[int, BaseException], None] | None,
    ) -> None:
        self.accounts, self.steps, self.failed = accounts, steps, failed
        self.record_every, self.memory = record_every, memory
        self.alone: str | None = None
        self._records = self._trained()

    def __next__(self) -> list[Record]:
        return next(self._records)

    def stop(self, row: int) -> None:
        """Ends a run: it yields no more records."""
        self.accounts[row].alive = False

    def _trained(self) -> Iterator[list[Record]]:
        if not self.accounts:
            return
        with ThreadPoolExecutor(cores()) as pool:
            records = self._each(Account.start, [(account,) for account in self.accounts], pool)
            records = [record for record in records if record is not None]
            if records:
                yield records
            going = [account for account in self.accounts if account.alive]
            if going:
                yield from self._advanced(going, pool)

    def _advanced(self, going: list[Account], pool: Executor) -> Iterator[list[Record]]:
        """The records after the first ones, of the runs that go on."""
        pace, parts, remember = self._planned(going, pool)
        self.alone = parts.alone

        def launch(done: int) -> tuple[Span, float, list[Launched]]:
            span = pace.span(done)
            return span, time.perf_counter(), parts.launch(span, [account.alive for account in going])

        done, ahead, read = going[0].done, None, 0.0
        while done < self.steps and any(account.alive for account in going):
            span, begun, launched = ahead or launch(done)
            done = span.until
            blocks = self._blocks(launched, going)
            # the device goes on while the host reads this block; of runs that turn out to have ended in it, that work is dropped
            ahead = None if span.due or done == self.steps else launch(done)
            found = [Visit(block, going) for block in blocks]
            begun, read = max(begun, read), time.perf_counter()
            if pace.took(span, read - begun):
                remember(pace.size)
            yield from self._recorded(span, found, pool)

    def _planned(self, going: list[Account], pool: Executor) -> tuple[Pace, Parts, Callable[[int], None]]:
        """How long the blocks are, the parts that make them, and what remembers the size of blocks for runs to come."""
        first, rows = going[0], len(going)
        starts, kind = [account.begun for account in going], first.kind
        together = math.ceil(rows / side_by_side(rows, starts[0].data))
        most = MOST_STATES // (together * sum(leaf.nbytes for leaf in jax.tree.leaves(starts[0].carry)))
        if jax.process_count() > 1:  # the programs of all hosts are the same, and their clocks are not
            most = 1
        pace = Pace(
            steps=self.steps,
            done=first.done,
            record_every=self.record_every,
            probe_every=first.probe.every if first.probe.measure else None,
            most_steps=_most_steps(kind),
            most_records=most,
        )
        length = pace.lengths[-1]
        shapes = tuple([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(starts[0])])
        found, form = remembered(kind.loss), (kind.batch_size, length, together, shapes)
        if pace.most > 1:
            if form in found:
                pace.resize(found[form])
            elif (seconds := first.seconds()) is not None:
                pace.start(seconds * length * together)
                found[form] = pace.size
        for account in going:
            account.again = None
        memory = memories.device() / 2 if self.memory is None else self.memory
        settings: dict[str, Any] = {"records": pace.records, "length": length, "begun": first.done}
        parts = Parts(starts, kind, pool=pool, memory=memory, **settings)
        return pace, parts, functools.partial(found.__setitem__, form)

    def _recorded(self, span: Span, found: list[Visit], pool: Executor) -> Iterator[list[Record]]:
        """The records of a block."""
        for visit in found:
            visit.follow(span)
        begun = span.begun
        for number, end in enumerate(span.ends):
            tasks: list[tuple[Any, ...]] = []
            for visit in found:
                tasks += visit.records(number, begun, end, due=span.due and end == span.until, recorded=span.recorded)
            if tasks and (records := self._each(_recorded, tasks, pool)):
                yield records
            begun = end

    def _blocks(self, launched: list[Launched], going: list[Account]) -> list[Block]:
        """The blocks, waited for; their states become the parts' own."""
        blocks = []
        for part, wait in launched:
            try:
                block = wait()
            except Exception as error:
                for number in part.numbers:
                    self._fail(going[number], error)
                continue
            part.carry = block.carry
            blocks.append(block)
        return blocks

    def _each(self, task: Callable[..., Any], arguments: list[tuple[Any, ...]], pool: Executor) -> list[Any]:
        """What the task gives for each account and its further arguments, side by side where that pays; what one raises ends its run."""
        results = []
        if len(arguments) == 1 or not self._side_by_side(arguments):
            for given in arguments:
                try:
                    results.append(task(*given))
                except (Exception, SystemExit) as error:  # a person's own code may exit
                    self._fail(given[0], error)
            return results
        here = thread_settings()

        def there(given: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
            with here():
                return _tried(task, given)

        with one_thread(True):  # the first compiles what all need
            found = [_tried(task, arguments[0]), *pool.map(there, arguments[1:])]
        for given, (result, raised) in zip(arguments, found, strict=True):
            if raised is not None:
                self._fail(given[0], raised)
            else:
                results.append(result)
        return results

    def _side_by_side(self, arguments: list[tuple[Any, ...]]) -> bool:
        """Whether the host's cores share the accounts: where they are read, and a reading leaves a core free."""
        account = arguments[0][0]
        probe = account.probe
        if probe.measure is None or jax.default_backend() != "cpu" or devices_of(account.problem.data) > 1:
            return False
        read = len(arguments[0]) == 1 or any(due or account.ended for account, *_, due in arguments)
        return read and not probe.fills(parameters(account.problem.init))

    def _fail(self, account: Account, error: BaseException) -> None:
        account.alive = False
        if self.failed is None:
            raise error
        self.failed(account.number, error)


def _recorded(account: Account, state: State | LateState, shown: dict[str, Any], due: bool) -> Record:
    return account.record(state, shown, due=due)


def _tried(task: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return task(*given), None
    except (Exception, SystemExit) as error:
        return None, error


def _most_steps(kind: Kind) -> int:
    """Most steps of a block whose orders, drawn beforehand, take no more than MOST_ORDERS."""
    if not kind.batch_size:
        return 10**9
    assert kind.examples is not None
    return max(1, (MOST_ORDERS // kind.examples - 1) * kind.batches)
