"""What every test shares: compiled programs, kept in pytest's cache folder; 64-bit mode switched per test and restored."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# before jax is imported; two workers, and the next session, compile a program once
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # LLVM's: the tests compile far more than they compute
if version("jaxlib").startswith(
    "0.10."
):  # an unknown flag ends the process; without these emitters XLA compiles in half the time
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import absl.logging
import jax

# absl, which Orbax loads, closes the stream of its handler when logging is configured anew, unless it is the process's own; pytest's is not
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True)
def _mode_restored() -> Iterator[None]:
    """No test, and no example of a docstring, runs in the 64-bit mode that another one left."""
    before = jax.config.values["jax_enable_x64"]
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit JAX for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
