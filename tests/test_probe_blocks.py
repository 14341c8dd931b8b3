"""The probe of blocks, against the diagonal blocks of the dense Hessian; and what becomes of its records."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import curvexp
from curvexp import memory, optim, preprocess, probe, training
from curvexp import problem as problems
from curvexp.app import checkpoint
from curvexp.errors import ConfigError
from curvexp.programs import count as count_programs
from curvexp.report import charts
from curvexp.report.page import page
from curvexp.store import RunFolder, load_block_densities, load_blocks, load_runs
from curvexp.track.wandb_run import logged
from curvexp.training import over_all_data

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
SIZES = {"Dense_0": 84, "Dense_1": 21}
PAIRS = {"k": 2, "tol": 1e-8, "dense_below": 30}  # Dense_1 densely, the whole and Dense_0 by products
DENSE = {"k": 2, "density": True}  # all of it


@functools.cache
def network():
    """A network of 105 parameters, its parameters, and its dense Hessian by jax.hessian."""
    problem = problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float64, data=problems.data.wine(), hidden=[6])
    params = problem.init(KEY)
    flat, tree = ravel_pytree(params)
    return problem, params, np.asarray(jax.jit(jax.hessian(lambda x: problem.loss(tree(x), problem.data)))(flat))


def rows_of(chosen):
    """Rows of the dense Hessian that belong to the arrays whose path is chosen."""
    _, params, _ = network()
    paths = {
        "/".join(part.key for part in path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    return np.concatenate([np.full(size, chosen(path)) for path, size in paths.items()])


def read(measure, state=None, params=None):
    problem, start, _ = network()
    measure.check(105, problem)
    return measure.measure(over_all_data(problem), start if params is None else params, state, KEY)


def block_of(chosen):
    """The diagonal block of the dense Hessian on the arrays whose path is chosen, and its eigenvalues."""
    rows = rows_of(chosen)
    part = network()[2][np.ix_(rows, rows)]
    return part, np.linalg.eigvalsh(part)


@functools.cache
def by_layer():
    return read(probe.blocks(**PAIRS))


def test_the_layers_eigenvalues_are_those_of_the_diagonal_blocks():
    reading, _ = by_layer()
    whole = np.linalg.eigvalsh(network()[2])
    found = reading.extra["blocks"]
    assert {name: block["size"] for name, block in found.items()} == SIZES
    assert sum(SIZES.values()) == len(whole)
    for name, block in found.items():
        _, exact = block_of(lambda path, name=name: path.startswith(f"{name}/"))
        np.testing.assert_allclose(block["eigenvalues"], exact[-2:], atol=1e-8 * exact[-1])  # the tolerance asked for
        assert (block["residuals"] <= 1e-8 * exact[-1]).all()
        assert block["missed"] <= 1e-3
        assert "density" not in block
    np.testing.assert_allclose(reading.eigenvalues, np.r_[whole[:2], whole[-2:]], atol=1e-8 * whole[-1])


@pytest.mark.parametrize(
    "options", [DENSE, pytest.param({**DENSE, **PAIRS, "vectors": 20, "depth": 30}, marks=pytest.mark.slow)]
)
def test_a_blocks_density_has_the_moments_of_the_matrix(options):
    reading, _ = read(probe.blocks(**options))
    for name, block in reading.extra["blocks"].items():
        part, exact = block_of(lambda path, name=name: path.startswith(f"{name}/"))
        assert abs(block["trace"] - np.trace(part)) <= 4 * block["trace_stderr"] + 1e-12 * exact[-1]
        x, density, width = (block["density"][key] for key in ("x", "density", "width"))
        n = len(exact)
        assert np.trapezoid(density, x) == pytest.approx((n - 2) / n, abs=1e-3)  # tails beyond four widths
        if block["trace_stderr"] == 0:  # all eigenvalues are known: each a bell
            moment = (exact[:-2] ** 2 + width**2).sum() / n
            assert np.trapezoid(density * x**2, x) == pytest.approx(moment, rel=1e-2)  # the tails again
    assert reading.extra["blocks"]["Dense_1"]["trace_stderr"] == 0


def test_the_next_reading_has_the_same_programs_and_fewer_products():
    reading, state = by_layer()
    programs = count_programs()
    _, params, _ = network()
    again, _ = read(probe.blocks(**PAIRS), state, jax.tree.map(lambda leaf: 1.001 * leaf, params))
    assert count_programs() == programs
    assert again.scalars["hvps"] < reading.scalars["hvps"]


def test_a_checkpoint_keeps_the_state(tmp_path):
    _, state = by_layer()
    _, params, _ = network()
    checkpoint.save(tmp_path, 1, {"probe_state": state}, {}, params=params)
    kept = checkpoint.restore(tmp_path, 1, params=params).tree["probe_state"]
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(one, other)
    assert kept["blocks"].keys() == state["blocks"].keys()


def test_patterns_choose_the_parameters_and_name_the_blocks():
    reading, _ = read(probe.blocks(k=3, by=["*/kernel", "Dense_1"], operator="ggn"))
    found = reading.extra["blocks"]
    assert {name: block["size"] for name, block in found.items()} == {"*/kernel": 96, "Dense_1": 21}
    problem, params, _ = network()
    dense = np.asarray(probe.operator_of(over_all_data(problem), params, operator="ggn").dense())
    for name, chosen in (
        ("*/kernel", lambda p: p.endswith("/kernel")),
        ("Dense_1", lambda p: p.startswith("Dense_1/")),
    ):
        rows = rows_of(chosen)
        exact = np.linalg.eigvalsh(dense[np.ix_(rows, rows)])
        np.testing.assert_allclose(found[name]["eigenvalues"], exact[-3:], atol=1e-13 * exact[-1])  # rounding
    assert reading.complete  # up to dense_below parameters the whole is dense too
    assert "density" not in found["Dense_1"]


def test_what_is_not_finite_has_no_blocks():
    _, params, _ = network()
    reading, state = read(probe.blocks(**DENSE), params=jax.tree.map(lambda leaf: leaf * jnp.nan, params))
    assert np.isnan(reading.eigenvalues).all()
    assert "blocks" not in reading.extra
    assert state is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"by": "kernel"}, "probe.by=kernel: expected layer, or a list"),
        ({"by": []}, r"probe.by=\[\]: expected layer"),
        ({"by": [3]}, r"probe.by=\[3\]: expected layer"),
        ({"by": ["*", "*"]}, "stands twice"),
        ({"by": ["*/kernel", "Conv_*"]}, r"probe.by=Conv_\*: no parameter matches; .*Dense_0/bias, Dense_0/kernel"),
        ({"density": 1}, "probe.density=1"),
        ({"k": 106}, "probe.k=106"),
        ({"operator": "ntk"}, "probe.operator=ntk"),
    ],
)
def test_bad_settings_are_refused_before_any_compute(options, message):
    with pytest.raises(ConfigError, match=message):
        probe.blocks(**options).check(105, network()[0])


def test_blocks_without_a_place_in_memory_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "device", lambda: 1e4)
    with pytest.raises(ConfigError, match=r"probe.k=2: a Krylov basis for the largest of 1 blocks, of 84 parameters"):
        probe.blocks(**PAIRS).check(30, network()[0])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with one run of two readings, and its records."""
    jax.config.update("jax_enable_x64", True)
    folder = tmp_path_factory.mktemp("blocks")
    problem, _, _ = network()
    store = RunFolder(folder / "one")
    store.start({}, {"problem": "mlp", "preprocess": "normalized", "optim": "sgd", "seed": 0})
    records = []
    for record in training.run(problem, optim.sgd(lr=0.1), probe.blocks(every=4, **DENSE), steps=4, key=KEY):
        store.append(record)
        records.append(record)
    store.finish(status="completed", steps=4, operator="hessian")
    jax.config.update("jax_enable_x64", False)
    return folder, records


def test_records_are_read_back_as_they_were(recorded):
    folder, records = recorded
    read_back, densities = load_blocks(folder), load_block_densities(folder)
    assert list(read_back.columns[:6]) == ["run", "step", "block", "index", "eigenvalue", "residual"]
    probed = [record for record in records if record.reading is not None]
    assert [record.step for record in probed] == [0, 4]
    for record in probed:
        assert record.scalars["sharpness"] == record.reading.eigenvalues[-1]  # the whole has its ledger
        assert "ledger" in record.reading.extra
        for name, block in record.reading.extra["blocks"].items():
            rows = read_back[(read_back["step"] == record.step) & (read_back["block"] == name)]
            assert rows["eigenvalue"].tolist() == block["eigenvalues"].tolist()
            assert rows["residual"].tolist() == block["residuals"].tolist()
            assert rows["index"].tolist() == [0, 1]
            assert set(rows["size"]) == {SIZES[name]}
            curve = densities[(densities["step"] == record.step) & (densities["block"] == name)]
            assert curve["density"].tolist() == block["density"]["density"].tolist()
        line = logged(record)
        assert line["blocks/Dense_0/lambda_max"] == record.reading.extra["blocks"]["Dense_0"]["eigenvalues"][-1]
        assert not [key for key in line if key.startswith("other/")]
    assert set(load_runs(folder).spectra["operator"]) == {"hessian"}
    assert curvexp.load_blocks is load_blocks


def test_the_chart_has_a_line_and_a_density_for_each_block(recorded):
    folder, records = recorded
    drawn = charts.blocks(load_blocks(folder), load_block_densities(folder))
    for name in SIZES:
        (line,) = [trace for trace in drawn.data if trace.name == name]
        tops = [record.reading.extra["blocks"][name]["eigenvalues"][-1] for record in records if record.reading]
        np.testing.assert_array_equal(np.asarray(line.customdata)[:, 0], tops)
        assert [trace.yaxis for trace in drawn.data if trace.name == f"density, {name}"] == ["y2"]
    assert (charts.blocks(None).layout.meta or {})["empty"]
    source = page(load_runs(folder), folder)
    assert "Top eigenvalue by block" in source
    assert "Top eigenvalue by block: No" not in source
