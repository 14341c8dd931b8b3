"""The project's W&B workspace, a section for each of loss, curvature, theory and timing; and a report for a sweep.

    python scripts/wandb_dashboard.py --entity ME --project curvexp                  saves the workspace, prints its link
    python scripts/wandb_dashboard.py --entity ME --project curvexp --sweep GROUP    saves a report over the sweep's runs too
    python scripts/wandb_dashboard.py --dry-run [--sweep GROUP]                      prints what would be sent; needs no login

Needs wandb-workspaces: pip install 'curvexp[dashboard]'. The keys are those that `track=wandb` logs: see curvexp/quantities.py.
"""

import argparse
import json
import os
import sys
from typing import Any

from curvexp.quantities import section

LINES = {  # section: title -> scalars drawn against the step, and whether the y axis is logarithmic
    "loss": {
        "Loss": (["loss"], True),
        "Gradient norm": (["grad_norm"], True),
        "Accuracy": (["accuracy", "test_accuracy"], False),
    },
    "curvature": {
        "Sharpness": (["sharpness"], True),
        "Extreme eigenvalues": (["lambda_max", "lambda_min"], False),
        "Condition number": (["condition_number", "condition_number_bound"], True),
        "Curvature along the gradient": (["gradient_curvature"], False),
    },
    "theory": {
        "Sharpness and its threshold": (["sharpness", "threshold"], True),
        "Change of the loss: actual and predicted": (["change_actual", "change_predicted"], False),
        "Step size": (["lr"], True),
    },
    "timing": {"Seconds": (["seconds"], False), "Hessian-vector products": (["hvps"], False)},
}  # fmt: skip
MEDIA = {
    "loss": ["loss/way", "loss/surface", "loss/along_eigenvectors", "loss/along_random_directions"],
    "curvature": ["curvature/eigenvalues", "curvature/spectrum", "curvature/density"],
}
SUMMARY_KEYS = ("condition_number", "steps_to_target", "rate", "rate_theory")  # that a report's panels show


def history_keys() -> set[str]:
    """Every key of a run's history that a panel shows."""
    lines = {key_of(name) for panels in LINES.values() for names, _ in panels.values() for name in names}
    return lines | {key for names in MEDIA.values() for key in names}


def key_of(name: str) -> str:
    """Key of a scalar in W&B: its section, a slash, its name."""
    return f"{section(name)}/{name}"


def panels(heading: str) -> list[Any]:
    """Panels of a section."""
    import wandb_workspaces.reports.v2 as wr

    lines = [
        wr.LinePlot(title=title, x="step", y=[key_of(name) for name in names], log_y=log)
        for title, (names, log) in LINES[heading].items()
    ]
    media = MEDIA.get(heading, [])
    return [*lines, *([wr.MediaBrowser(title="Figures", media_keys=media)] if media else [])]


def workspace(entity: str, project: str) -> Any:
    """The workspace: a section each, runs grouped by sweep."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name="curvexp",
        sections=[ws.Section(name=name, panels=panels(name), is_open=name != "timing") for name in LINES],
        settings=ws.WorkspaceSettings(x_axis="step"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
    )


def report(entity: str, project: str, sweep: str) -> Any:
    """A report over the runs of one sweep: the same panels, and steps to the target against the condition number."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, name=sweep, filters=chosen(sweep))
    blocks: list[Any] = []
    for name, shown in report_panels().items():
        blocks += [wr.H1(name.capitalize()), wr.PanelGrid(runsets=[runs], panels=shown)]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"curvexp: {sweep}",
        description=f"The runs of the sweep {sweep}.",
        blocks=blocks,
    )


def report_panels() -> dict[str, list[Any]]:
    """A report's panels by heading."""
    import wandb_workspaces.reports.v2 as wr

    steps = {
        "x": wr.SummaryMetric("condition_number"),
        "y": wr.SummaryMetric("steps_to_target"),
        "log_x": True,
        "log_y": True,
    }
    rates = {"x": wr.SummaryMetric("rate_theory"), "y": wr.SummaryMetric("rate")}
    across = [
        wr.ScatterPlot(title="Steps to the target", **steps),
        wr.ScatterPlot(title="Rate: measured against theory", **rates),
    ]
    return {"across all runs": across, **{name: panels(name) for name in LINES}}


def chosen(sweep: str) -> str:
    """The filter that leaves a sweep's runs."""
    return f"Metric('Group') == {sweep!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description="The project's W&B workspace, and a report for a sweep.")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team")
    parser.add_argument("--project", default="curvexp")
    parser.add_argument("--sweep", metavar="GROUP", help="a sweep's group, the last two parts of its folder: DATE/TIME")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, as JSON")
    options = parser.parse_args()
    if options.dry_run:
        made = {"workspace": _plain(workspace(options.entity or "ENTITY", options.project)._to_model())}
        if options.sweep:
            shown = {name: [_plain(panel._to_model()) for panel in found] for name, found in report_panels().items()}
            made["report"] = {"title": f"curvexp: {options.sweep}", "filters": chosen(options.sweep), "panels": shown}
        print(json.dumps(made, indent=2))
        return 0
    if not options.entity:
        print("error: --entity: expected a W&B user or team. Give --entity, or set WANDB_ENTITY.", file=sys.stderr)
        return 2
    import wandb

    if not wandb.login(prompt=False, verify=False):
        print(
            "error: no W&B API key is configured. Run `wandb login`; or --dry-run shows what would be sent.",
            file=sys.stderr,
        )
        return 2
    made_one = workspace(options.entity, options.project)
    made_one.save()
    print(made_one.url)
    if options.sweep:
        made_report = report(options.entity, options.project, options.sweep)
        made_report.save()
        print(made_report.url)
    return 0


def _plain(model: Any) -> Any:
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


if __name__ == "__main__":
    sys.exit(main())
