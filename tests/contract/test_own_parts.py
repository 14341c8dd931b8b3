"""The parts that ship pass the contract checks, and a part that breaks a promise is told which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvexp
from curvexp import console, optim, preprocess, probe, problem, testing, track
from curvexp.app import final_params, keeper, sinks, trajectory
from curvexp.app.launch import rows
from curvexp.problem import data
from curvexp.store import ENDINGS, RunFolder

RAW = preprocess.raw()
PROBLEMS = {
    "quadratic": lambda: problem.quadratic(preprocess=RAW),
    "bowl": lambda: problem.bowl(preprocess=RAW),
    "dome": lambda: problem.dome(preprocess=RAW),
    "saddle": lambda: problem.saddle(preprocess=RAW),
    "valley": lambda: problem.valley(preprocess=RAW),
    "rosenbrock": lambda: problem.rosenbrock(preprocess=RAW),
    "himmelblau": lambda: problem.himmelblau(preprocess=RAW),
    "monkey_saddle": lambda: problem.monkey_saddle(preprocess=RAW),
    "least_squares": lambda: problem.least_squares(data=data.diabetes(), preprocess=RAW),
    "logistic": lambda: problem.logistic(data=data.wine(), preprocess=preprocess.normalized()),
    "mlp": lambda: problem.mlp(data=data.wine(), preprocess=preprocess.normalized(), hidden=[3]),
    "mlp with batchnorm": lambda: problem.mlp(data=data.wine(), preprocess=preprocess.batchnorm(), hidden=[3]),
}
OPTIMIZERS = {
    "sgd": lambda: optim.sgd(lr=0.1),
    "momentum": lambda: optim.momentum(lr=0.1, momentum=0.9),
    "nesterov": lambda: optim.nesterov(lr=0.1, momentum=0.9),
    "adam": lambda: optim.adam(lr=0.01),
    "rmsprop": lambda: optim.rmsprop(lr=0.01),
    "adagrad": lambda: optim.adagrad(lr=0.01),
}
PROBES = {
    "exact": lambda: probe.exact(),
    "top": lambda: probe.top(k=2, dense_below=0),
    "density": lambda: probe.density(k=2, vectors=2, depth=10),
    "exact of the ggn": lambda: probe.exact(operator="ggn"),
    "exact of the fisher": lambda: probe.exact(operator="fisher"),
    "blocks": lambda: probe.blocks(k=2, density=True, vectors=2, depth=10),
    "off": lambda: probe.off(),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_that_ship_pass(name):
    testing.check_problem(PROBLEMS[name]())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_that_ship_pass(name):
    testing.check_optimizer(OPTIMIZERS[name]())


@pytest.mark.parametrize("name", PROBES)
def test_probes_that_ship_pass(name):
    testing.check_probe(PROBES[name](), PROBLEMS["mlp"]())


BROKEN_PROBLEMS = {
    "init gives the same parameters for the same key": lambda p: p._replace(
        init=lambda key: p.init(jax.random.key(np.random.default_rng().integers(2**31)))
    ),
    "the loss is a scalar": lambda p: p._replace(loss=lambda params, data: p.loss(params, data)[None]),
    "the loss is finite": lambda p: p._replace(loss=lambda params, data: p.loss(params, data) * jnp.nan),
    "the gradient is the loss's slope": lambda p: p._replace(
        loss=lambda params, data: p.loss(jax.lax.stop_gradient(params), data)
    ),
    "the loss is the mean over the examples": lambda p: p._replace(
        model=None, loss=lambda params, data: p.loss(params, data) * len(data.inputs)
    ),
    "known.minimum": lambda p: p._replace(known=p.known._replace(minimum=1e9)),
    "no loss lies under lower_bound": lambda p: p._replace(lower_bound=1e9),
    "criterion(model(params, inputs), targets)": lambda p: p._replace(criterion=lambda f, y: 2 * p.criterion(f, y)),
    "the negative log-likelihood of log_likelihood": lambda p: p._replace(log_likelihood="bernoulli"),
}


@pytest.mark.parametrize("promise", BROKEN_PROBLEMS)
def test_a_problem_that_breaks_a_promise_is_told_which(promise):
    whole = PROBLEMS["mlp"]()
    with pytest.raises(testing.ContractError) as error:
        testing.check_problem(BROKEN_PROBLEMS[promise](whole))
    assert promise in str(error.value)


def test_a_wrong_spectrum_and_a_wrong_optimum_are_found():
    bowl = PROBLEMS["bowl"]()
    wrong = bowl._replace(known=bowl.known._replace(eigenvalues=2 * bowl.known.eigenvalues))
    with pytest.raises(testing.ContractError, match=r"known\.eigenvalues are those of the Hessian"):
        testing.check_problem(wrong)
    moved = jax.tree.map(lambda leaf: leaf + 1, bowl.known.optimum)
    with pytest.raises(testing.ContractError, match=r"the gradient is 0 at known\.optimum"):
        testing.check_problem(bowl._replace(known=bowl.known._replace(optimum=moved)))


@pytest.mark.parametrize(
    "name, broken, promise",
    [
        ("sgd", {"threshold": lambda hyper: 1 / hyper["lr"]}, "stable up to threshold"),
        ("sgd", {"rate": lambda hyper, values: np.abs(values)}, "rate is the spectral radius"),
        ("momentum", {"iteration": optim.sgd(lr=0.1).iteration, "threshold": None, "rate": None}, "that of the update"),
        ("adam", {"preconditioner": lambda state: jax.tree.map(jnp.ones_like, optim.momentum_of(state))}, "−lr·m/P"),
    ],
)
def test_an_optimizer_that_breaks_a_promise_is_told_which(name, broken, promise):
    with pytest.raises(testing.ContractError, match=promise):
        testing.check_optimizer(OPTIMIZERS[name]()._replace(**broken))


def test_a_probe_that_breaks_a_promise_is_told_which():
    small, whole = PROBLEMS["logistic"](), probe.exact()

    def with_reading(**change):
        def measure(*args):
            reading, state = whole.measure(*args)
            return reading._replace(**{name: of(getattr(reading, name)) for name, of in change.items()}), state

        return whole._replace(measure=measure)

    for broken, promise in (
        (with_reading(eigenvalues=lambda values: values + 1), "within each residual"),
        (with_reading(eigenvalues=lambda values: values[::-1]), "ascend"),
        (with_reading(eigenvalues=lambda values: values.astype(np.float32)), "float64"),
        (with_reading(scalars=lambda scalars: {**scalars, "entropy": 1.0}), "entropy is described"),
    ):
        with pytest.raises(testing.ContractError, match=promise):
            testing.check_probe(broken, small)
    described = with_reading(scalars=lambda scalars: {**scalars, "entropy": 1.0})
    own = curvexp.Quantity("entropy", "curvature", "entropy of the spectrum")
    testing.check_probe(described._replace(quantities=(own,)), small)


def started(tmp_path):
    """The run's folder, begun as a job begins it."""
    folder = RunFolder(tmp_path)
    folder.start(testing.RUN_CONFIG, {})
    return folder


SINKS = {
    "store": lambda folder: sinks.Store(folder),
    "display": lambda folder: console.Display(),
    "a row's display": lambda folder: rows.Share(rows.Together(1, steps=4)),
    "off": lambda folder: track.off(),
    "checkpoint": lambda folder: keeper.Checkpoints(folder, trajectory.Trajectory(folder, problem.bowl()), track.off()),
    "trajectory": lambda folder: trajectory.Trajectory(folder, problem.bowl()),
    "params": lambda folder: final_params.FinalParams(folder),
}


@pytest.mark.parametrize("status", ENDINGS)
@pytest.mark.parametrize("name", SINKS)
def test_sinks_that_ship_pass(name, status, tmp_path):
    testing.check_sink(SINKS[name](started(tmp_path)), status=status, folder=tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert ("checkpoints" in left) == (name == "checkpoint" and status in ("completed", "diverged", "interrupted"))
    assert ("params.npz" in left) == (name == "params" and status not in ("failed", "skipped"))
    assert ("landscape.json" in left) == (name == "trajectory" and status in ("completed", "diverged"))


@pytest.mark.slow  # W&B's own start and end; tests/test_track.py has its promises one by one
def test_the_sink_of_wandb_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    testing.check_sink(track.wandb(), folder=tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*"))


class Kept:
    """A sink that keeps what it is given."""

    def start(self, run):
        self.title, self.records = run.title, []
        run.add(kept=True)

    def append(self, record):
        self.records.append(record)

    def finish(self, outcome):
        assert [record.step for record in self.records] == [0, 2, 4]


def broken(method, body):
    return type("Broken", (Kept,), {method: body})()


BROKEN_SINKS = {
    "append raises nothing; ZeroDivisionError": broken("append", lambda self, record: 1 / 0),
    "append raises nothing; TypeError": broken("append", lambda self, record: record.scalars["grad_norm"] + None),
    "append leaves what it is given": broken("append", lambda self, record: record.scalars.clear()),
    "start leaves what it is given": broken("start", lambda self, run: run.config.pop("seed")),
    "JSON holds what it adds": broken("finish", lambda self, outcome: None),
}


@pytest.mark.parametrize("promise", BROKEN_SINKS)
def test_a_sink_that_breaks_a_promise_is_told_which(promise):
    sink = BROKEN_SINKS[promise]
    if promise.startswith("JSON"):
        sink.start = lambda run: (Kept.start(sink, run), run.add(opened={1, 2}))
    with pytest.raises(testing.ContractError, match=promise):
        testing.check_sink(sink)
    testing.check_sink(Kept())


def test_a_sink_has_three_methods():
    with pytest.raises(testing.ContractError, match="has the method finish"):
        testing.check_sink(type("Half", (), {"start": print, "append": print})())
