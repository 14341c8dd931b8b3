"""All that the project promises about speed, measured in one process on one device, a GPU or a CPU.

    python scripts/bench_gpu.py [rows ...] [--quick] [--json FILE] [--seconds 340]

Prints what is measured as it goes, and a table of ratios with the goals at the end. All that is compared is timed in turn; a ratio is the
median of the ratios of the rounds. --json FILE is written anew after each figure, so that a run that is killed leaves what it has. A row
is left out, and that is said, where the seconds are used up before it begins; a row that fails says why, and the next one goes on.

pairs      top 5 to 1e-3, without and with the check, over as many bare products in one compiled loop as plain Lanczos needs
peers      top 10 beside matfree, hessian-eigenthings and curvlinops where they are installed; without matfree beside plain Lanczos of
           fixed depth with full Gram-Schmidt in one scan; the same precision for all
density    10 vectors of 80 steps over 800 bare products
training   a bare jitted lax.scan over run(), probe off, a record every 10 steps and every step
tracking   a run with the top 1 or 5 every 10 steps at the edge of stability over one without
sweeps     64 quadratics and 64 networks, launcher basic over vmap
products   by how they are differentiated, by precision, by the number of vectors at once (bench_products.py)
compile    the first call of eigsh for a network of new widths, beyond that of one product
starts     seconds of a single run to its first record, cold and with a warm cache, each in a process of its own
eigh       the small eigenproblem on the device beside a round trip to the host's LAPACK
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # `starts` has processes of its own on the same device

import bench_host
import bench_linalg
import bench_training
import jax
from bench_figures import Figure, Setting, as_row, described, keep

ROWS: dict[str, Callable[[Setting], Iterator[Figure]]] = {
    "pairs": bench_linalg.pairs,
    "peers": bench_linalg.peers,
    "density": bench_linalg.density,
    "training": bench_training.training,
    "tracking": bench_training.tracking,
    "sweeps": bench_training.sweeps,
    "products": bench_linalg.products,
    "compile": bench_linalg.compile_,
    "starts": bench_training.starts,
    "eigh": bench_linalg.eigh,
}

NETWORKS = ("small", "medium", "large")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", choices=[[], *ROWS])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller networks and sweeps")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: all, with --quick the first")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=340, help="no row begins after these")
    options = parser.parse_args()
    begun = time.perf_counter()
    head = bench_host.headline()
    print(head, flush=True)
    networks = tuple(options.networks or (NETWORKS[:1] if options.quick else NETWORKS))
    setting = Setting(2 if options.quick else 5, networks, options.quick, jax.default_backend() != "cpu")
    figures: list[Figure] = []
    took: dict[str, float] = {}
    for row in options.rows or ROWS:
        at = time.perf_counter()
        if at - begun > options.seconds:
            print(f"{row}: left out, {options.seconds:.0f} s are used up", flush=True)
            continue
        try:
            for figure in ROWS[row](setting):
                figures.append(figure)
                print(f"  {described(figure)}", flush=True)
                keep(options.json, head, figures, took)
        except Exception:  # the rows after it are measured still
            traceback.print_exc(limit=4, file=sys.stdout)
        took[row] = time.perf_counter() - at
        print(f"{row}: {took[row]:.1f} s", flush=True)
        keep(options.json, head, figures, took)
    print(f"\n{head}; {time.perf_counter() - begun:.0f} s\n")
    print("\n".join(["| work | value | goal | |", "|---|---:|---:|---|", *map(as_row, figures)]))


if __name__ == "__main__":
    main()
