"""Every optimizer of optax: what is said of it is true of its own updates, or is absent, with a reason."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvexp
from curvexp import optim, probe, problem
from curvexp.errors import ConfigError

LR = 0.02
DIVIDED = {"adam", "adamw", "amsgrad", "adabelief", "yogi", "rmsprop", "adagrad"}
PLAIN = {"sgd"}
NOT_A_STEP = {  # they need more than a gradient: a loss value, gradients of each example
    *("lbfgs", "contrib.dpsgd", "contrib.momo", "contrib.momo_adam", "contrib.sophia"),
}
UNKNOWN = {
    *("adadelta", "adafactor", "adamax", "adamaxw", "adan", "fromage", "lamb", "lars", "lion", "nadam", "nadamw", "noisy_sgd"),
    *("novograd", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent", "radam", "rprop", "sign_sgd", "signum"),
    *("sm3", "contrib.acprop", "contrib.ademamix", "contrib.adopt", "contrib.cocob", "contrib.dadapt_adamw", "contrib.dog"),
    *("contrib.dowg", "contrib.galore", "contrib.madgrad", "contrib.muon", "contrib.prodigy", "contrib.schedule_free"),
    *("contrib.schedule_free_adamw", "contrib.schedule_free_sgd", "contrib.simplified_ademamix"),
}  # fmt: skip
NEEDED = {
    "noisy_sgd": {"key": 0},
    "contrib.dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0},
    "contrib.schedule_free": {"base_optimizer": optax.sgd(LR)},
}
RNG = np.random.default_rng(0)
SHAPES = {"bias": (3,), "kernel": (4, 3)}
PARAMS = {name: RNG.standard_normal(shape) for name, shape in SHAPES.items()}
GRADIENTS = [{name: RNG.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(4)]


def public(module, prefix=""):
    """The functions that take a learning rate and give a whole optimizer."""
    found = {}
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith(("_", "scale_by")) or isinstance(value, type) or not callable(value):
            continue
        try:
            parameters = inspect.signature(value).parameters
        except (TypeError, ValueError):
            continue
        if "learning_rate" in parameters:
            found[prefix + name] = value
    return found


OPTIMIZERS = {**public(optax), **public(optax.contrib, "contrib.")}
SEEN = DIVIDED | PLAIN | {"nadam", "lion", "lamb", "radam"}
NAMES = [pytest.param(name, marks=[] if name in SEEN else pytest.mark.slow) for name in sorted(OPTIMIZERS)]


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def walk(transform, state, params, gradients=GRADIENTS):
    """The last gradient, updates and state; params stay."""
    update = jax.jit(transform.update)
    for gradient in map(arrays, gradients):
        updates, state = update(gradient, state, params)
    return gradient, updates, state


def assert_divides(p, state, gradient, updates, params, decay=0.0, lr=LR):
    """P = −α·m/update elementwise, m the raw first moment in the state, or the gradient, and the update before decay."""
    moment = optim.momentum_of(state) or gradient
    for name in SHAPES:
        exact = -lr * moment[name] / (updates[name] + lr * decay * params[name])
        assert np.allclose(
            p[name], exact, rtol=1e-9
        )  # float64: a few roundings; the sum with the decay cancels some digits


def test_each_of_optax_has_its_place():
    """A new optimizer of optax's is to be looked at before anything is said of it."""
    assert set(OPTIMIZERS) == DIVIDED | PLAIN | NOT_A_STEP | UNKNOWN


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of optax: some of its optimizers are about to go
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_a_preconditioner_is_what_the_update_divides_by_or_is_absent_with_a_reason(name):
    params = arrays(PARAMS)
    optimizer = optim.from_optax(OPTIMIZERS[name], lr=LR, **NEEDED.get(name, {}))
    if name in NOT_A_STEP:
        with pytest.raises(ConfigError, match="cannot step on these parameters"):
            optim.check_step(optimizer, lambda key: params)
        return
    optim.check_step(optimizer, lambda key: params)
    gradient, updates, state = walk(optimizer.transform, optimizer.init(params), params)
    if name in DIVIDED:
        p = optimizer.preconditioner(state)
        assert_divides(p, state, gradient, updates, params, decay=1e-4 if name == "adamw" else 0.0)
        assert optimizer.operator == "preconditioned"
        return
    with pytest.raises(ValueError, match="no preconditioner"):
        curvexp.preconditioner(state)
    assert optimizer.preconditioner is None
    assert optimizer.operator == ("hessian" if name in PLAIN else None)
    assert (optimizer.threshold is None) == (optimizer.unknown is not None) == (name in UNKNOWN)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "function, options",
    [
        (optax.adam, {"b1": 0.5, "b2": 0.9, "eps": 0.1, "eps_root": 0.2}),
        (optax.adamw, {"b1": 0.0, "weight_decay": 0.3}),
        (optax.amsgrad, {"b1": 0.5, "bias_correction_mu": False, "bias_correction_nu": False, "eps_root": 0.1}),
        (optax.adabelief, {"b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}),
        (optax.yogi, {"b2": 0.9, "eps": 0.3}),
        (optax.rmsprop, {"eps_in_sqrt": False, "eps": 0.1, "initial_scale": 0.4}),
        (optax.rmsprop, {"bias_correction": True, "decay": 0.7, "eps": 0.1}),
        (optax.rmsprop, {"centered": True, "decay": 0.7, "eps": 0.1}),
        (optax.rmsprop, {"centered": True, "bias_correction": True, "eps_in_sqrt": False, "eps": 0.1}),
        (optax.adagrad, {"initial_accumulator_value": 0.3, "eps": 0.2}),
    ],
)
def test_the_identity_holds_for_every_option(function, options):
    params = arrays(PARAMS)
    optimizer = optim.from_optax(function, lr=LR, **options)
    gradient, updates, state = walk(optimizer.transform, optimizer.init(params), params)
    p = optimizer.preconditioner(state)
    assert_divides(p, state, gradient, updates, params, decay=options.get("weight_decay", 0.0))
    expected, _ = walk(function(LR, **options), function(LR, **options).init(params), params)[1:]
    assert all(np.allclose(updates[name], expected[name], rtol=1e-12) for name in SHAPES)  # as optax itself steps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "transform",
    [
        optax.inject_hyperparams(optax.adam)(LR, b2=0.9, eps=0.1, eps_root=0.3),
        optax.chain(optax.clip_by_global_norm(1e9), optax.inject_hyperparams(optax.adam)(LR, b2=0.9, eps=0.1)),
        optax.chain(optax.clip_by_global_norm(0.5), optax.chain(optax.inject_hyperparams(optax.adagrad)(LR))),
        optax.inject_hyperparams(optax.adamw)(LR, weight_decay=0.0),
        optax.partition(
            {"bias": optax.inject_hyperparams(optax.adam)(LR, b1=0.5), "kernel": optax.inject_hyperparams(optax.adam)(LR, eps=0.1)},
            {"bias": "bias", "kernel": "kernel"},
        ),
    ],
)  # fmt: skip
def test_a_state_that_holds_its_numbers_tells_its_preconditioner_at_any_depth(transform):
    params = arrays(PARAMS)
    gradient, updates, state = walk(transform, transform.init(params), params)
    with pytest.raises(ValueError, match="does not say which optimizer's"):
        curvexp.preconditioner(state)
    p = curvexp.preconditioner(state, transform)
    if optim.momentum_of(state) is None:  # adagrad: of the gradient as it was clipped
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
        gradient = {name: leaf * min(1, 0.5 / norm) for name, leaf in gradient.items()}
    assert_divides(p, state, gradient, updates, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "transform, numbers, missing",
    [
        (optax.adam(LR), {"b1": 0.9, "b2": 0.999, "eps": 1e-8}, "eps_root"),
        (optax.chain(optax.clip(1e9), optax.rmsprop(LR, eps=1e-3)), {"eps": 1e-3}, "eps_in_sqrt"),
        (optax.adagrad(LR), {}, "eps"),
        (optax.inject_hyperparams(optax.yogi)(LR), {"b1": 0.9, "b2": 0.999, "eps": 1e-3}, "eps_root"),
        (optax.amsgrad(LR), {"b1": 0.9, "eps": 1e-8, "eps_root": 0.0}, "bias_correction_mu"),
    ],
)
def test_a_number_that_no_state_holds_is_asked_for_by_name(transform, numbers, missing):
    params = arrays(PARAMS)
    gradient, updates, state = walk(transform, transform.init(params), params)
    with pytest.raises(
        ValueError, match=rf"does not hold {missing}, which .* Pass preconditioner\(opt_state, {missing}="
    ):
        curvexp.preconditioner(state, **numbers)
    truth = {"eps_root": 0.0, "eps_in_sqrt": True, "eps": 1e-7, "bias_correction_mu": True}[missing]
    for given in ((state,), (state, transform)):
        p = curvexp.preconditioner(*given, **numbers, **{missing: truth})
        assert_divides(p, state, gradient, updates, params)


def bent(learning_rate, decay=0.9, eps=1e-8):
    """A person's own, with the state and the numbers of RMSProp."""
    return optax.chain(
        optax.scale_by_rms(decay, eps),
        optax.stateless(lambda u, _: jax.tree.map(jnp.tanh, u)),
        optax.scale(-learning_rate),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "transform",
    [
        *(optax.inject_hyperparams(f)(LR) for f in (optax.nadam, optax.nadamw, optax.radam, optax.lamb, bent)),
        optax.inject_hyperparams(optax.adabelief)(LR, nesterov=True),
        optax.chain(optax.inject_hyperparams(optax.nadam)(LR)),
        optax.chain(optax.scale_by_adam(), optax.scale_by_sign(), optax.scale(-LR)),
        optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio(), optax.scale(-LR)),
        optax.chain(optax.scale_by_rms(), optax.clip(0.05), optax.scale(-LR)),
        optax.inject_hyperparams(optax.rmsprop)(LR, momentum=0.9),
        optax.chain(optax.inject_hyperparams(optax.adam)(LR), optax.trace(0.9)),
        optax.masked(optax.inject_hyperparams(optax.adam)(LR), {"bias": True, "kernel": False}),
        optax.chain(optax.inject_hyperparams(optax.adam)(LR), optax.inject_hyperparams(optax.adam)(LR)),
        optax.contrib.muon(LR),
        optax.sgd(LR),
    ],
)  # fmt: skip
def test_another_update_is_refused_with_what_made_it_and_without(transform):
    """Of the first ten the states are those of adam or rmsprop, class by class: only an update tells."""
    params = arrays(PARAMS)
    _, _, state = walk(transform, transform.init(params), params)
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "eps_in_sqrt": True}
    with pytest.raises(ValueError, match="no preconditioner"):
        curvexp.preconditioner(state, transform, **numbers)
    with pytest.raises(ValueError, match="no preconditioner"):
        curvexp.preconditioner(state)


@pytest.mark.usefixtures("x64")
def test_one_parameter_is_enough_to_tell_nadam_from_adam():
    """Of one entry any update is some multiple of m/P: that of two gradients is another for nadam."""
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0}
    for make in (optax.adam, optax.nadam):
        transform = make(LR)
        _, state = transform.update(jnp.array(0.7), transform.init(jnp.array(1.0)))
        if make is optax.adam:  # after one update P = (1 − b1)(|g| + eps)
            assert float(curvexp.preconditioner(state, transform, **numbers)) == pytest.approx(
                0.1 * (0.7 + 1e-8), rel=1e-12
            )
        else:
            with pytest.raises(ValueError, match="no preconditioner"):
                curvexp.preconditioner(state, transform, **numbers)


@pytest.mark.parametrize(
    "transform", [optax.inject_hyperparams(optax.adam)(LR), optim.adam(lr=LR).transform, optax.adam(LR)]
)
def test_before_the_first_update_there_is_no_preconditioner(transform):
    with pytest.raises(ValueError, match=r"no update yet \(its count is 0\)"):
        curvexp.preconditioner(transform.init(arrays(PARAMS)), transform, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "adabelief", "yogi", "rmsprop", "adagrad"])
def test_the_threshold_is_where_optaxs_own_update_turns_unstable(name):
    """On ½λx² about the minimum, so late that no correction is left: one step's Jacobian in (x, m), whose radius passes 1; by bisection."""
    options = {"weight_decay": 5.0} if name == "adamw" else {}
    optimizer = optim.from_optax(getattr(optax, name), learning_rate=LR, **options)
    start = optimizer.init(jnp.zeros(()))
    first, *others = start.inner_state
    late = {"count": jnp.int32(10**6), **{key: jnp.full((), 4.0) for key in ("nu", "nu_max", "sum_of_squares")}}
    first = first._replace(**{key: value for key, value in late.items() if key in first._fields})

    def step(z, curvature):
        state = first._replace(mu=z[1]) if "mu" in first._fields else first
        state = start._replace(inner_state=(state, *others))
        change, after = optimizer.transform.update(curvature * z[0], state, z[0])
        return jnp.stack([z[0] + change, getattr(after.inner_state[0], "mu", 0.0 * z[1])])

    jacobian = jax.jit(jax.jacfwd(step))
    low, high = 0.0, 1e6
    for _ in range(60):
        middle = (low + high) / 2
        stable = np.abs(np.linalg.eigvals(jacobian(jnp.zeros(2), middle))).max() <= 1
        low, high = (middle, high) if stable else (low, middle)
    stepped = optimizer.transform.update(jnp.zeros(()), start._replace(inner_state=(first, *others)), jnp.zeros(()))[1]
    p = float(optimizer.preconditioner(stepped))
    # eigvals' rounding, over the slope of the radius there
    assert low / p == pytest.approx(float(optimizer.threshold(optimizer.hyper)), rel=1e-9)


def schedule(step):
    """In the precision of the test; optax's own are float32 for an int32 step."""
    return 1 - 0.8 * jnp.minimum(jnp.asarray(step, float), 15) / 15


scheduleD = {"sgd", "adam", "adamw", "lion", "contrib.schedule_free_sgd", "contrib.schedule_free_adamw", "fromage"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of optax: some of its optimizers are about to go
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in scheduleD else pytest.mark.slow)
        for name in sorted(set(OPTIMIZERS) - NOT_A_STEP)
    ],
)
def test_a_schedule_goes_in_as_the_learning_rate_itself(name):
    """Parameters after 20 steps as optax's own, given the learning rate as a function of the step, or where none is taken as a number."""
    function, options, curvature = OPTIMIZERS[name], NEEDED.get(name, {}), jnp.array([1.0, 4.0, 9.0])
    mine = optim.from_optax(function, lr=LR, schedule=schedule, **options)
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}

    def path(update, state):
        def step(carry, count):
            x, state = carry
            change, state = update(jax.tree.map(lambda leaf: leaf * curvature, x), state, x, count)
            return (optax.apply_updates(x, change), state), None

        return jax.jit(lambda state: jax.lax.scan(step, (x, state), jnp.arange(20))[0])(state)

    found, state = path(lambda g, s, x, _: mine.transform.update(g, s, x), mine.init(x))
    try:
        theirs = function(learning_rate=lambda step: LR * schedule(step), **options)
        expected, _ = path(lambda g, s, x, _: theirs.update(g, s, x), theirs.init(x))
    except Exception:  # no function of the step is taken
        by_number = lambda step: function(learning_rate=LR * schedule(step), **options)  # noqa: E731
        start = function(learning_rate=LR, **options).init(x)
        expected, _ = path(lambda g, s, x, step: by_number(step).update(g, s, x), start)
    for key in x:
        assert np.allclose(
            found[key], expected[key], rtol=1e-10, atol=1e-12
        )  # float64, 20 steps of the same operations
    assert mine.hyper_at(state)["learning_rate"] == pytest.approx(LR * float(schedule(20)), rel=1e-12)
    assert mine.hyper_before(state, 2)["learning_rate"] == pytest.approx(
        [LR * float(schedule(18)), LR * float(schedule(19))]
    )


def bowl(size=2):
    return problem.quadratic(eigenvalues=list(np.linspace(1.0, 20.0, size)), dtype=jnp.zeros(0).dtype)


def scalars(optimizer, measure=None, **options):
    given = {"steps": 6, "record_every": 3, "key": 0, "target": None, **options}
    measure = measure or probe.exact(every=3)
    return list(curvexp.run(bowl(), optimizer, measure, **given))


ADAMS = ("sharpness", "threshold", "stability_margin", "effective_condition_number", "top_contraction_theory")


@pytest.mark.usefixtures("x64")
def test_adamw_is_read_as_adam_is():
    ours = scalars(optim.adam(lr=LR))[-1].scalars
    plain = scalars(optim.from_optax(optax.adamw, lr=LR, weight_decay=0.0))[-1].scalars
    assert {name: plain[name] for name in ADAMS} == pytest.approx({name: ours[name] for name in ADAMS}, rel=1e-12)
    assert ours["sharpness"] < 0.5 * ours["lambda_max"]  # it is not the Hessian's
    decayed = scalars(optim.from_optax(optax.adamw, lr=LR, weight_decay=5.0))[-1].scalars
    assert decayed["threshold"] == pytest.approx(
        1.9 * (2 - LR * 5.0) / (0.1 * LR), rel=1e-12
    )  # (1 + β₁)(2 − αw)/((1 − β₁)α)
    assert decayed["stability_margin"] == pytest.approx(decayed["sharpness"] / decayed["threshold"], rel=1e-12)
    assert decayed["top_contraction_theory"] is None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "optimizer",
    [
        optim.from_optax(optax.nadam, lr=LR),
        optim.from_optax(optax.rmsprop, lr=LR, momentum=0.9),
        optim.from_optax(optax.lion, lr=LR),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LR)),
    ],
)
def test_of_an_unknown_operator_nothing_is_said_and_why_is_noted(optimizer):
    first, *_, last = scalars(optimizer)
    assert first.note.startswith("no sharpness and no threshold: ")
    for name in (*ADAMS, "effective_condition_number_positive", "sharpness_residual"):
        assert last.scalars.get(name) is None
    assert last.scalars["lambda_max"] == pytest.approx(20.0, rel=1e-9)  # the Hessian's own stays
    assert last.reading.extra["ledger"]["operator"] == "hessian"


@pytest.mark.usefixtures("x64")
def test_an_optimizer_of_ones_own_is_judged_by_what_it_is_given():
    """With a threshold the Hessian's largest eigenvalue stands beside it; without any theory there is neither, and a note."""
    transform = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    mine = curvexp.Optimizer(
        "mine", transform, {"learning_rate": LR}, threshold=lambda hyper: 2 / hyper["learning_rate"]
    )
    first, *_, last = scalars(mine)
    assert (first.note, last.scalars["lr"]) == (None, LR)
    assert last.scalars["stability_margin"] == pytest.approx(20.0 * LR / 2, rel=1e-9)
    first, *_, last = scalars(mine._replace(threshold=None))
    assert "neither threshold nor preconditioner is given" in first.note
    assert last.scalars.get("sharpness") is None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("beta, nesterov", [(None, False), (0.8, False), (0.8, True)])
def test_sgd_of_optax_is_read_as_ours(beta, nesterov):
    theirs = optim.from_optax(optax.sgd, lr=LR, momentum=beta, nesterov=nesterov)
    make = optim.sgd if beta is None else optim.nesterov if nesterov else optim.momentum
    ours = make(lr=LR, **({} if beta is None else {"momentum": beta}))
    found, expected = (scalars(made)[-1] for made in (theirs, ours))
    assert found.scalars == pytest.approx(expected.scalars, rel=1e-9)
    assert found.outcome.rate_theory == pytest.approx(expected.outcome.rate_theory, rel=1e-12)


def network():
    inputs = np.random.default_rng(1).standard_normal((12, 3))
    targets = jnp.asarray(np.tanh(inputs @ np.ones(3)), jnp.float32)
    data = (jnp.asarray(inputs, jnp.float32), targets)

    def init(key):
        return {"w": 0.5 * jax.random.normal(key, (3, 3)), "b": jnp.zeros(3), "v": jnp.ones(3) / 3}

    def loss(params, data):
        return jnp.mean((jnp.tanh(data[0] @ params["w"] + params["b"]) @ params["v"] - data[1]) ** 2)

    return problem.Problem("net", init, loss, data, examples=12, lower_bound=0.0)


NET = network()


def matrices(tree):
    return jax.tree.map(lambda leaf: leaf.ndim == 2, tree)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.multi_transform({True: optax.adam(LR), False: optax.sgd(LR, momentum=0.9)}, matrices),
        pytest.param(optax.contrib.muon(LR), marks=pytest.mark.slow),
        pytest.param(optax.chain(optax.masked(optax.trace(0.9), matrices), optax.scale(-LR)), marks=pytest.mark.slow),
        pytest.param(optim.from_optax(optax.adamw, lr=LR, mask=matrices), marks=pytest.mark.slow),
        pytest.param(optim.from_optax(optax.adafactor, lr=LR, min_dim_size_to_factor=2), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "measure",
    [probe.exact(every=2), pytest.param(probe.top(k=2, every=2, dense_below=0), marks=pytest.mark.slow)],
)
def test_an_optimizer_that_treats_parameters_apart_runs_through_with_readings(optimizer, measure):
    records = list(curvexp.run(NET, optimizer, measure, steps=4, key=0, record_every=2))
    assert records[-1].outcome.status == "completed"
    for record in records:
        assert np.isfinite(record.scalars["lambda_max"])
        assert record.scalars.get("sharpness") is None
        assert np.isfinite(record.scalars["change_actual"])


def test_momentum_is_a_whole_tree_or_none():
    params = arrays(PARAMS)
    by_rank = optax.partition({True: optax.adam(LR), False: optax.sgd(LR, momentum=0.9)}, matrices)
    m = optim.momentum_of(walk(by_rank, by_rank.init(params), params)[2])
    assert {name: leaf.shape for name, leaf in m.items()} == SHAPES
    for transform in (
        optax.masked(optax.trace(0.9), matrices),  # of a part
        optax.contrib.muon(LR),
        optax.chain(optax.trace(0.9), optax.adam(LR)),  # two
        optax.rmsprop(LR, momentum=0.9),  # of divided steps
        optax.sgd(LR),
    ):
        assert optim.momentum_of(transform.init(params)) is None


@pytest.mark.parametrize(
    "transform, options",
    [
        (optax.adafactor, {"decay_rate": 0.7, "clipping_threshold": 1.5}),
        (optax.adamw, {"mask": {"bias": False, "kernel": True}, "weight_decay": 0.1}),
        (optax.contrib.prodigy, {"betas": [0.9, 0.99], "estim_lr0": 1e-3}),
        (optax.adagrad, {"initial_accumulator_value": 0.3}),
        (optax.rprop, {"eta_minus": 0.4}),
    ],
)
def test_options_do_what_they_do_in_optax(transform, options):
    """Those that decide what the state begins with, those that cannot be arrays, and those that cannot be hashed."""
    params = arrays(jax.tree.map(np.float32, PARAMS))
    mine, theirs = optim.from_optax(transform, lr=LR, **options), transform(LR, **options)
    found = walk(mine.transform, mine.init(params), params)[1]
    expected = walk(theirs, theirs.init(params), params)[1]
    for name in SHAPES:
        assert np.allclose(
            found[name], expected[name], rtol=1e-5, atol=1e-9
        )  # float32: the same operations, fused otherwise
    assert mine.hyper["learning_rate"] == LR


def test_one_transformation_serves_every_number_of_optaxs_own():
    first, second = (
        optim.from_optax(optax.adamw, lr=lr, b1=b1, schedule=schedule) for lr, b1 in ((0.1, 0.8), (0.2, 0.7))
    )
    assert first.transform is second.transform
    assert second.hyper == {"b1": 0.7, "learning_rate": 0.2}
    assert (
        first.transform is not optim.from_optax(optax.adamw, lr=0.1, b1=0.8, nesterov=True, schedule=schedule).transform
    )
    halved = optim.from_optax(
        optax.sgd, learning_rate=lambda step: 0.5 * schedule(step)
    )  # optax's way to give a schedule
    assert halved.hyper_at(halved.init(jnp.ones(2)))["learning_rate"] == 0.5


@pytest.mark.usefixtures("x64")
def test_a_chain_is_an_optimizer_and_its_injected_numbers_are_recorded():
    chain = optim.from_optax(optax.chain, optax.clip(0.5), optax.inject_hyperparams(optax.sgd)(LR))
    assert scalars(chain)[-1].scalars["lr"] == LR
    with pytest.raises(ConfigError, match=r"optim\.schedule: chain takes no learning rate"):
        optim.from_optax(optax.chain, optax.sgd(LR), schedule=schedule)


@pytest.mark.usefixtures("x64")
def test_a_bare_transformation_and_an_integer_key_run():
    first, *_, last = scalars(optax.sgd(LR))
    x = np.asarray(first.state.params)
    expected = (1 - LR * np.array([1.0, 20.0])) ** 6
    matrix = np.asarray(bowl().data.matrix)
    values, vectors = np.linalg.eigh(matrix)
    assert np.asarray(last.state.params) == pytest.approx(vectors @ (expected * (vectors.T @ x)), rel=1e-12)
    assert values == pytest.approx([1.0, 20.0])
    assert "lr" not in last.scalars
    again = scalars(optim.sgd(lr=LR), key=jax.random.key(0))[-1].state.params
    assert np.asarray(again) == pytest.approx(np.asarray(last.state.params), rel=1e-12)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"optimizer": "adam"}, "optimizer='adam': expected an optimizer"),
        ({"optimizer": None}, "optimizer=None: expected an optimizer"),
        ({"optimizer": optax.sgd}, "optimizer=sgd: .* Call it"),
        ({"optimizer": optax.lookahead(optax.sgd(LR), 5, 0.5)}, "no second set of parameters"),
        (
            {"optimizer": optim.from_optax(optax.lookahead, fast_optimizer=optax.sgd(LR), sync_period=5, slow_step_size=0.5)},
            "no second set of parameters",
        ),
        ({"key": True}, "key=True: expected an integer"),
        ({"key": 0.5}, "key=0.5: expected an integer"),
        ({"problem": "mlp"}, "problem='mlp': expected a curvexp.Problem"),
        ({"probe": "exact"}, "probe='exact': expected a curvexp.Probe"),
    ],
)  # fmt: skip
def test_other_things_are_refused_in_a_sentence(arguments, words):
    given = {"problem": bowl(), "optimizer": optim.sgd(lr=LR), "probe": None, "key": 0, **arguments}
    with pytest.raises(ConfigError, match=words):
        next(curvexp.run(given["problem"], given["optimizer"], given["probe"], steps=1, key=given["key"]))


@pytest.mark.parametrize("name", ["quadratic", "bowl", "saddle", "rosenbrock", "himmelblau", "monkey_saddle"])
def test_a_problem_without_preprocessing_is_raw(name):
    made = getattr(problem, name)()
    assert jax.tree.leaves(made.init(jax.random.key(0)))[0].dtype == jnp.float32


@pytest.mark.parametrize(
    "behind", [optax.scale_by_sign(), optax.scale_by_trust_ratio(), optax.clip(1e-3), optax.add_decayed_weights(0.1)]
)
def test_what_stands_behind_an_adaptive_optimizer_is_refused(behind):
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    params = jnp.array([1.0, -2.0])
    for chained in (optax.chain(adam, behind), optax.chain(optax.clip(9.0), optax.chain(adam, behind))):
        _, state = chained.update(params, chained.init(params), params)
        with pytest.raises(ValueError, match="stands behind ScaleByAdamState's"):
            curvexp.preconditioner(state, chained)
