"""Many records a call: how long a block is, that no number depends on it, and what its device program is made of."""

import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import Run, optim, preprocess, probe, run, run_many
from curvexp import problem as problems
from curvexp.training.account import Account
from curvexp.training.loop import advance, advance_rows
from curvexp.training.pace import VISITS, Pace
from curvexp.training.rows import Part, Parts


def bowl(dtype):
    return problems.bowl(preprocess=preprocess.raw(), dtype=dtype)


def network(dtype, prepared=preprocess.normalized):
    data = problems.data.gaussian(samples=60, features=5, classes=3)
    return problems.mlp(preprocess=prepared(), dtype=dtype, data=data, hidden=[6])


# ---- no number depends on how many records a block has ------------------------------------------------------------------------------

PROBLEMS = {"bowl": bowl, "mlp": network, "batchnorm": functools.partial(network, prepared=preprocess.batchnorm)}
OPTIMIZERS = {
    "sgd": optim.sgd(lr=0.02),
    "momentum": optim.momentum(lr=0.02, momentum=0.9),
    "adam": optim.adam(lr=0.01),
    "diverges": optim.sgd(lr=0.9),
}
QUICK = [  # problem, optimizer, batch_size, record_every, target, precision
    ("bowl", "momentum", None, 1, "auto", "float32"),
    ("bowl", "diverges", None, 3, "auto", "float32"),
    ("mlp", "sgd", 7, 3, "auto", "float32"),
    ("batchnorm", "adam", None, 1, 0.9, "float64"),
]
SLOW = [
    (problem, optimizer, batch_size, record_every, "auto", precision)
    for precision in ("float32", "float64")
    for problem in PROBLEMS
    for optimizer in ("sgd", "momentum", "adam")
    for batch_size in ((None,) if problem == "bowl" else (None, 7))
    for record_every in (1, 3, 10)
]


def bits(record):
    """Of all that a record holds: the text of a number is that of its bits."""
    state = record.state
    arrays = [state.params, state.opt_state, state.step, state.loss, state.gradient, state.order]
    states = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(arrays)]
    return record.step, repr(record.scalars), repr(record.outcome), record.snapshot.reached, states


def records(monkeypatch, size, problem, optimizer, batch_size, record_every, target, steps, resume=None):
    """Of a run whose blocks have `size` records."""
    with monkeypatch.context() as patch:
        patch.setattr(Pace, "_balanced", lambda self, wanted: size)
        settings = {"steps": steps, "batch_size": batch_size, "record_every": record_every, "target": target}
        return list(run(problem, optimizer, key=5, **settings, resume=resume))


@pytest.mark.parametrize(
    "problem, optimizer, batch_size, record_every, target, precision, sizes",
    [
        *((*case, (2, 16)) for case in QUICK),
        *(pytest.param(*case, (2, 3, 5, 16), marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_no_bit_depends_on_the_records_of_a_block(
    problem, optimizer, batch_size, record_every, target, precision, sizes, monkeypatch
):
    """Nor where a run goes on from a record within a block, stops within a block, or has states read within one.

    A block has two at least: a loop of one iteration is none to XLA.
    """
    with jax.enable_x64(precision == "float64"):
        settings = (OPTIMIZERS[optimizer], batch_size, record_every, target, 16 * record_every + record_every // 2)
        made = PROBLEMS[problem](jnp.dtype(precision))
        trained = functools.partial(records, monkeypatch, problem=made)
        names = ("optimizer", "batch_size", "record_every", "target", "steps")
        settings = dict(zip(names, settings, strict=True))
        whole = {size: trained(size=size, **settings) for size in sizes}
        wanted = [bits(record) for record in whole[sizes[0]]]
        assert len(wanted) > 2
        if optimizer == "diverges" or target != "auto":
            assert whole[16][-1].step < settings["steps"]
            assert whole[16][-1].outcome.reason is not None
        for size in sizes[1:]:
            assert [bits(record) for record in whole[size]] == wanted
        middle = len(wanted) // 2
        rest = trained(size=2, resume=whole[16][middle].snapshot, **settings)
        assert [bits(record) for record in rest] == wanted[middle + 1 :]


def test_rows_stop_within_a_block_where_they_do_alone(monkeypatch):
    """Each at a step of its own, some of them between two records."""
    runs = [
        Run(bowl(jnp.float32), optim.sgd(lr=0.02 * (1 + row)), key=row, target=0.01 if row else None)
        for row in range(5)
    ]
    found = {}
    for size in (2, 16):
        monkeypatch.setattr(Pace, "_balanced", lambda self, wanted, size=size: size)
        for records in run_many(runs, steps=60, record_every=4):
            for record in records:
                found.setdefault((size, record.row), []).append(bits(record))
    for row in range(5):
        assert found[2, row] == found[16, row]  # of the same rows the sums are in the same order
    ends = [found[2, row][-1][0] for row in range(5)]
    assert ends[0] == 60
    assert any(end % 4 for end in ends)


@pytest.fixture
def quick(monkeypatch):
    """A step takes 10 microseconds, by the clock, and nothing is known of the runs before."""
    monkeypatch.setattr(Account, "seconds", lambda self: 1e-5)
    monkeypatch.setattr("curvexp.training.pace._remembered", weakref.WeakKeyDictionary())


# ---- the host comes seldom ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rows", [1, 3])
def test_the_host_fetches_many_records_at_once(rows, monkeypatch):
    """Counted: 200 records of a quick problem are one block."""
    fetched = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or get(tree))
    runs = [Run(bowl(jnp.float32), optim.sgd(lr=0.01), key=row) for row in range(rows)]
    found = [record for records in run_many(runs, steps=200, record_every=1) for record in records]
    assert len(found) == 201 * rows
    assert len(fetched) <= rows + 1  # what a start shows, and one block
    assert sum(leaf.size for tree in fetched for leaf in jax.tree.leaves(tree)) < 201 * rows * 10  # no states


@pytest.mark.usefixtures("quick")
def test_the_state_before_a_reading_is_had_without_making_it_again(monkeypatch):
    """The ledger looks back at the record before its reading, which is within the block."""
    made = []
    monkeypatch.setattr(
        "curvexp.training.rows.advance", lambda *args, **options: made.append(1) or advance(*args, **options)
    )
    watch = probe.exact(every=20)
    found = list(run(bowl(jnp.float32), optim.momentum(lr=0.05, momentum=0.5), watch, steps=60, record_every=5, key=0))
    assert [record.step for record in found if record.reading] == [0, 20, 40, 60]
    assert len(made) == 3


@pytest.mark.usefixtures("quick")
def test_no_clock_parts_the_programs_of_several_hosts(monkeypatch):
    made = []

    def count(*args, **options):
        made.append(options["records"])
        return advance(*args, **options)

    monkeypatch.setattr("curvexp.training.rows.advance", count)
    list(run(bowl(jnp.float32), optim.sgd(lr=0.01), steps=40, record_every=10, key=0))
    assert made == [4]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    list(run(bowl(jnp.float32), optim.sgd(lr=0.01), steps=40, record_every=10, key=0))
    assert made == [4, 1, 1, 1, 1]


# ---- how long a block is --------------------------------------------------------------------------------------------------------------


def pace(steps=1000, done=0, record_every=10, probe_every=None, most_steps=10**9, most_records=10**6):
    return Pace(
        steps=steps,
        done=done,
        record_every=record_every,
        probe_every=probe_every,
        most_steps=most_steps,
        most_records=most_records,
    )


@pytest.mark.parametrize("seconds", [1e-5, 1e-3, 0.02, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"record_every": 1},
        {"steps": 57},
        {"steps": 3},
        {"steps": 1},
        {"done": 33},
        {"probe_every": 100},
        {"probe_every": 10},
        {"probe_every": 5},
        {"probe_every": 7},
        {"most_steps": 4},
        {"most_steps": 35},
        {"record_every": 1, "probe_every": 1},
        {"most_records": 3},
    ],
)
def test_blocks_make_all_steps_and_end_at_readings(settings, seconds):
    blocks = pace(**settings)
    blocks.start(seconds)
    done, steps = settings.get("done", 0), settings.get("steps", 1000)
    every = settings.get("record_every", 10), settings.get("probe_every")
    ends = []
    while done < steps:
        span = blocks.span(done)
        assert span.begun == done
        assert span.ends[-1] == span.until <= steps
        strides = np.diff([done, *span.ends])
        assert (strides[:-1] == span.length).all()  # what the program's loops make
        assert 0 < strides[-1] <= span.length
        assert len(span.ends) <= span.records
        assert span.records == 1 or span.records * seconds <= 0.2 * 1.01 or span.records == blocks.least
        assert span.records <= settings.get("most_records", 10**6)
        assert span.length <= settings.get("most_steps", 10**9)
        if every[1]:
            assert not any(step % every[1] == 0 for step in (*span.ends[:-1],))
            assert span.due == (span.until % every[1] == 0)
        ends += span.ends[:-1] + (span.ends[-1:] if span.recorded else ())
        done = span.until
    begin = settings.get("done", 0)
    wanted = {step for n in every if n for step in range(n, steps + 1, n) if step > begin} | {steps}
    assert ends == sorted(wanted)


def test_a_block_of_a_stretch_is_not_short_at_its_end():
    blocks = pace(steps=2000, record_every=10)
    blocks.start(1e-3)  # 64 records take 0.064 s, 512 more than 0.2 s
    assert blocks.records == 50
    blocks.start(1e-4)
    assert blocks.records == 200


def test_a_longer_program_is_compiled_only_where_it_saves_enough_visits():
    def grown(steps):
        blocks, done = pace(steps=steps, record_every=10), 0
        blocks.start(0.02)
        assert blocks.size == 8
        for _ in range(3):
            span = blocks.span(done)
            blocks.took(span, 1e-4 * span.records)  # they turn out quicker
            done = span.until
        return blocks.size

    visits = VISITS / (1 / 8 - 1 / 512) * 10
    assert grown(int(1.2 * visits)) == 512
    assert grown(int(0.8 * visits)) == 8


def test_a_resumed_run_begins_with_few_records_a_block_and_learns():
    blocks, done = pace(steps=10**6, done=50, record_every=10), 50
    for _ in range(3):
        span = blocks.span(done)
        assert span.ends == (done + 10, done + 20)
        blocks.took(span, 2e-4)
        done = span.until
    assert blocks.size == 512
    assert len(blocks.span(done).ends) > 256


def test_one_record_a_block_is_no_matter_of_the_clock():
    """Its bits may be others: a training has it always, or never."""
    for settings in ({}, {"record_every": 1}, {"done": 990}, {"probe_every": 100}):
        slow = pace(**settings)
        slow.start(100.0)
        assert slow.records == 2
    for settings in ({"most_records": 1}, {"probe_every": 10}, {"probe_every": 7}):
        quick = pace(**settings)
        quick.start(1e-9)
        assert quick.records == 1


# ---- structure of the device program ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("batch_size, length", [(None, 1), (7, 5)])
def test_a_block_has_no_loop_of_unknown_length_and_no_branch(rows, batch_size, length):
    """An accelerator waits for the host at each of them. 60 examples in batches of 7: a block begins several epochs."""
    runs = [Run(network(jnp.float32), optim.adam(lr=0.01), key=row) for row in range(rows)]
    accounts = [
        Account(row, one, steps=80, batch_size=batch_size, matmul_precision="highest", clock=None)
        for row, one in enumerate(runs)
    ]
    for account in accounts:
        account.start()
    starts, kind, records = [account.begun for account in accounts], accounts[0].kind, 8
    if rows == 1:
        part = Part([0], starts, None, 1)
        block = functools.partial(advance.function, kind=kind, records=records, length=length)
    else:
        settings = {"records": records, "length": length, "pool": None, "memory": np.inf, "begun": 0}
        part = Part(range(rows), starts, Parts(starts, kind, **settings).parts[0].axes, rows)
        none = jax.tree.map(lambda leaf: None, runs[0].problem.data)
        block = advance_rows(kind, records, length, none, None)
    orders = part.orders(kind, 0, records * length)
    arguments = part.arguments(part.carry, orders, np.full(rows, records * length, np.int32))
    text = jax.jit(block).lower(*arguments).compile().as_text()
    loops = [line for line in text.splitlines() if " while(" in line]
    assert loops
    assert all("known_trip_count" in line for line in loops)
    assert any(f'"n":"{records}"' in line for line in loops)  # its records are one program
    assert " conditional(" not in text
