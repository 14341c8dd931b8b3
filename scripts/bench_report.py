"""What the report costs on many runs: 1000 runs of 200 records each, written here and read back; tables, page, and its size.

python scripts/bench_report.py [--runs 1000] [--records 200]
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

PROBLEMS, PREPROCESSES, OPTIMS, READINGS, PAIRS = 5, 4, 5, 10, 10


def write(folder: Path, *, runs: int, records: int) -> None:
    """Runs as the store writes them, over 100 settings; one in fifty diverged, failed or without an end."""
    rng = np.random.default_rng(0)
    settings = [(p, q, o) for p in range(PROBLEMS) for q in range(PREPROCESSES) for o in range(OPTIMS)]
    for index in range(runs):
        problem, preprocess, optim = (
            f"{kind}{number}" for kind, number in zip("pqo", settings[index % len(settings)], strict=True)
        )
        run = folder / str(index)
        run.mkdir(parents=True)
        status = {7: "diverged", 23: "failed", 41: "running"}.get(index % 50, "completed")
        rate = rng.uniform(0.9, 0.999)
        steps = np.arange(records) * 10
        loss, top = 2.0 * rate**steps + 1e-6, 20 * (1 - 0.9 * rate ** (steps / 10)) + rng.normal(0, 0.1, records)
        lines = [
            {"step": int(step), "seconds": step / 1e3, "loss": value, "grad_norm": value**0.5, "lambda_max": t, "sharpness": t,
             "threshold": 20.0, "lr": 0.1, "change_predicted": -value / 50, "change_actual": -value / 51}
            for step, value, t in zip(steps, loss.tolist(), top.tolist(), strict=True)
        ]  # fmt: skip
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        spectra = [
            {"step": int(steps[i]), "eigenvalues": [*np.linspace(-1, 1, PAIRS - 1).tolist(), float(top[i])], "residuals": [1e-4] * PAIRS,
             "gradient_overlaps": [0.05] * PAIRS, "complete": False}
            for i in np.linspace(0, records - 1, READINGS).astype(int)
        ]  # fmt: skip
        (run / "spectrum.jsonl").write_text("".join(json.dumps(line) + "\n" for line in spectra))
        summary = {
            "status": status, "problem": problem, "preprocess": preprocess, "optim": optim, "seed": index // len(settings),
            "steps": int(steps[-1]), "loss": loss[-1], "loss_start": 2.0, "lambda_max": top[-1], "lambda_max_start": top[0],
            "sharpness": top[-1], "threshold": 20.0, "condition_number": float(rng.uniform(10, 1e4)), "steps_to_target": 100 + index,
            "target_loss": 1e-3, "rate": rate, "rate_theory": rate, "reason": "RuntimeError: no" if status == "failed" else None,
        }  # fmt: skip
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "config.json").write_text(
            json.dumps({"seed": index // len(settings), "optim": {"lr": 0.1}, "steps": 2000})
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of the report's tables and page, and the page's size.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--records", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "sweep"
        write(folder, runs=options.runs, records=options.records)
        start, cpu = time.perf_counter(), time.process_time()
        from curvexp.report import aggregate, render
        from curvexp.report.terminal import sparklines
        from curvexp.store import load_runs

        found = load_runs(folder)
        render(aggregate(found.runs), Console(file=io.StringIO()), sparks=sparklines(found))
        tables, tables_cpu = time.perf_counter() - start, time.process_time() - cpu
        from curvexp.report.page import write_page

        target = write_page(found, folder, folder / "report.html")
        both, both_cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{options.runs} runs x {options.records} records")
        print(f"tables  {tables:6.2f} s  ({tables_cpu:.2f} s of processor time)")
        print(f"page    {both:6.2f} s  ({both_cpu:.2f} s of processor time), reading included")
        print(f"size    {target.stat().st_size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
