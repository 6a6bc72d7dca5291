"""The cases of precision.py: models, what is asked of the compiler, and the bars of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planning_cases import NO_FLOOR, REAL, RELATED, THREE, VITS

# What weights are stored in, and operators compute in, where the floor allows it.
EIGHT_BITS, MIXED = "int8", "auto"
# Precision by itself, as the quantisers beside have it.
ALONE = {"only": "precision"}


@dataclass(frozen=True)
class Bars:
    """The most, or least, that a case is allowed; None where nothing is asked.

    `share` of the weight bytes, `explained` variance of the worst output on dev frames, `points`
    lost by any model, `latency` and `memory` of the weights' part by those of the models apart,
    `eight`: the share of the weights that stands in 8 bits or fewer, `further`: plain passes beside
    those of the float compilation.
    """

    share: float | None = None
    explained: float | None = None
    points: float | None = None
    latency: float | None = None
    memory: float | None = None
    eight: float | None = None
    further: float | None = 10.0


@dataclass(frozen=True)
class Case:
    """Models by name, with the labels that each is judged by, and one compilation of them.

    `family` as in planning_cases. `frames` is how many to compile and to calibrate with (None: all
    that the round has). `beside`: the wishes of the float compilation, where those of the case
    without precision are none that it could keep. `plain`: weights rounded to the nearest are
    measured beside it, as ONNX Runtime's static quantiser is beside every case. `on_top`: wishes of
    a float compilation whose merged graph that quantiser is given.
    """

    tasks: Mapping[str, str]
    family: str
    wishes: Mapping[str, Any]
    bars: Bars
    frames: int | None = None
    beside: Mapping[str, Any] | None = None
    plain: bool = False
    on_top: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def float_wishes(self) -> Mapping[str, Any]:
        """The wishes of the float compilation that its cost is held against."""
        if self.beside is not None:
            return self.beside
        return {key: value for key, value in self.wishes.items() if key != "precision"}


def _real(model: str, bars: Bars, precision: str, **wishes: Any) -> Case:
    """Held to what it is judged by: variance, of class scores too."""
    asked = {"precision": precision, "metrics": {model: "variance"}, **wishes}
    beside = {key: asked[key] for key in asked if key not in ("precision", "budget")}
    return Case({model: ""}, REAL, asked, bars, None, beside)


def _weights(model: str, explained: float) -> Case:
    case = _real(model, Bars(0.27, explained, memory=0.4), EIGHT_BITS, **ALONE)
    return replace(case, plain=True)


def _cifar(model: str, task: str) -> Case:
    return Case(
        {model: task}, "cifar10", {"precision": EIGHT_BITS, **ALONE}, Bars(0.27, None, 0.1, 0.6)
    )


def _mixed(
    tasks: Mapping[str, str], budget: str, bars: Bars, beside: str, family: str = "cifar10"
) -> Case:
    """Several models in one plan. The budget alone decides, and labels judge."""
    wishes = {"precision": MIXED, "budget": budget, "min_fidelity": NO_FLOOR}
    floating = {"budget": beside, "min_fidelity": NO_FLOOR}
    return Case(tasks, family, wishes, bars, None, floating)


_SIBLINGS = _mixed(RELATED, "9%", Bars(0.09, None, 0.3, 0.2), "33.4%")

CASES: dict[str, Case] = {
    "weights-safety_mobilenet_v2": _weights("safety_mobilenet_v2", 0.999),
    "weights-ocr2_cls": _weights("ocr2_cls", 0.999),
    "weights-ocr4_det": _weights("ocr4_det", 0.997),
    "weights-ocr5_det": _weights("ocr5_det", 0.997),
    "weights-hand_full": _weights("mp_hand_landmark_full", 0.99),
    "weights-magika": _weights("magika", 0.999),
    "mixed-safety_mobilenet_v2": _real(
        "safety_mobilenet_v2", Bars(0.18, 0.99), MIXED, budget="18%", **ALONE
    ),
    "mixed-ocr2_cls": _real("ocr2_cls", Bars(0.18, 0.99), MIXED, budget="18%", **ALONE),
    "int8-ocr5_det": _real(
        "ocr5_det", Bars(None, 0.99, latency=1.0, eight=0.85), EIGHT_BITS, **ALONE
    ),
    "int8-safety_mobilenet_v2": _real(
        "safety_mobilenet_v2", Bars(None, 0.99, latency=1.0, eight=0.85), EIGHT_BITS, **ALONE
    ),
    "int8-resnet20": _cifar("cifar10_resnet20", "class10"),
    "int8-resnet44": _cifar("cifar10_resnet44", "class10"),
    "int8-animal2": _cifar("sib_full_animal2", "animal2"),
    "siblings-9": replace(_SIBLINGS, on_top={"budget": "33.4%"}),
    "siblings-6": _mixed(RELATED, "6%", Bars(0.06, None, 1.0), "33.4%"),
    "three-12": _mixed(THREE, "12%", Bars(0.12, None, 0.7), "50%"),
    "vits-16": _mixed(VITS, "16%", Bars(0.16, None, 0.5), "60%", "fashion"),
}
# For the short round alone, and without bars: there is no telling from so few frames.
SHORT: dict[str, Case] = {
    "short-weights": _weights("ocr2_cls", 0.999),
    "short-int8": _cifar("cifar10_resnet20", "class10"),
}
