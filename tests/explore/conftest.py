"""A trade-off as a value, for what tells it: tables, charts, pages."""

from __future__ import annotations

from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.execution.fidelity import TOP1
from repsimc.compiler.explore.report import Exploration, ExploredOutput, ExploredPoint
from repsimc.compiler.planning.plan import Plan, PlannedAction
from repsimc.compiler.reports.report import OutputFidelity

HOSTILE = '<script>alert("&")</script>\x1b[31m\u202e'


def fidelity(value: float, floor: float = 0.99, explained: float = 0.98) -> OutputFidelity:
    return OutputFidelity("y", TOP1, value, floor, 40, 0.9, explained=explained)


def exploration(name: str = "a", labelled: bool = True) -> Exploration:
    """Three points: the exact program, one that was measured below its floor, a prediction."""
    action = CollapseAction(name, f"{name}/{name}_in", f"{name}/{name}_out")
    region = PlannedAction(action, 500, 0, predicted=0.0123)

    def outputs(loss: float, value: float | None, right: tuple[float, float]) -> list[object]:
        return [
            ExploredOutput(
                model,
                "y",
                loss,
                None if value is None else fidelity(value),
                accuracy if labelled and value is not None else None,
            )
            for model, accuracy in zip((name, "b"), right)
        ]

    def point(number: int, nbytes: int, told: list[object], *gone: PlannedAction) -> ExploredPoint:
        command = f"repsimc compile --plan {number:03}.json --name {name}"
        return ExploredPoint(number, nbytes, 4 * nbytes, tuple(told), Plan({}, gone), command)  # type: ignore[arg-type]

    return Exploration(
        (name, "b"),
        (
            point(0, 2000, outputs(0.0, 1.0, (0.9, 0.5))),
            point(1, 1500, outputs(0.01, 0.98, (0.89, 0.52)), region),
            point(2, 1000, outputs(0.25, None, (0, 0)), region),
        ),
        2000,
        8000,
        0.99,
        120,
        40,
        (f"{name} is told of",),
    )
