"""A verification in words: whether a miss is what compile allowed for."""

from __future__ import annotations

import pytest

from repsimc.compiler.reports.measurements import OutputVerification, missed_floor
from repsimc.compiler.reports.report import OutputFidelity


def seen(
    value: float, lower: float, stated: float | None, blends: float | None = None
) -> OutputVerification:
    fidelity = OutputFidelity("y", "top-1 agreement", value, 0.99, 400, lower)
    return OutputVerification("a", fidelity, 1.0, stated=stated, stated_stressed=blends)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (seen(0.985, 0.97, 0.98), "and within the bound that compile stated, 0.9800"),
        (seen(0.975, 0.96, 0.98), "stated, 0.9800, as 400 frames may be by chance"),
        (seen(0.911, 0.90, 0.98, 0.867), "0.9800: blends of its frames proved 0.8670, so the mod"),
        (seen(0.911, 0.90, 0.98), "stated, 0.9800: these frames are of another kind"),
        (seen(0.911, 0.90, 0.98, 0.98), "stated, 0.9800: these frames are of another kind"),
        (seen(0.985, 0.97, None), "below its floor of 0.99"),
    ],
)
def test_a_miss_is_told_beside_what_compile_stated(found: OutputVerification, said: str) -> None:
    error = missed_floor([found])
    assert error is not None and said in error.message


def test_what_keeps_its_floor_is_no_miss() -> None:
    assert missed_floor([seen(0.995, 0.98, 0.999)]) is None
