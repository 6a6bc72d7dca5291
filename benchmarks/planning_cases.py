"""The cases of planning.py: models, what is asked of the compiler, and the bars of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A floor that any output keeps: the budget alone decides, and labels judge.
NO_FLOOR = 1e-6
REAL, RANDOM = "real", "random"


@dataclass(frozen=True)
class Bars:
    """The most, or least, that a case is allowed; None where nothing is asked.

    `passes` of compiling, `points` lost by any model, `share` of the weight bytes, `explained`
    variance of the worst output on dev frames, `peak_mib` of memory, `price`: the share of variance
    that the worst output loses by the share of bytes or MACs that is saved. `blocks` of resnet44
    that are to be replaced at least.
    """

    passes: float | None = None
    points: float | None = None
    share: float | None = None
    explained: float | None = None
    peak_mib: float | None = None
    price: float | None = None
    blocks: int | None = None


@dataclass(frozen=True)
class Case:
    """Models by name, with the labels that each is judged by, and one compilation of them.

    `family` says which frames they take: 'cifar10' and 'fashion' have labels; 'real' are models as
    people deploy them, with frames of their own; 'random' are made up here, weights and frames.
    `frames` is how many to compile with (None: all that the round has). `baselines`: other ways to
    narrow the same layers are measured beside it.
    """

    tasks: Mapping[str, str]
    family: str
    wishes: Mapping[str, Any]
    bars: Bars
    frames: int | None = None
    baselines: bool = False


def _resnet44(bars: Bars, frames: int | None = None, **wishes: Any) -> Case:
    return Case({"cifar10_resnet44": "class10"}, "cifar10", wishes, bars, frames, True)


def _animal2(macs: str, points: float) -> Case:
    wishes = {"max_macs": macs, "min_fidelity": NO_FLOOR}
    tasks = {"sib_full_animal2": "animal2"}
    return Case(tasks, "cifar10", wishes, Bars(points=points), baselines=True)


def _replaced(macs: str, floor: float, bars: Bars) -> Case:
    """resnet20 stays what it is; resnet44 is judged by variance, which carries over (see
    independent.py)."""
    donor, receiver = "cifar10_resnet20", "cifar10_resnet44"
    wishes = {
        "max_macs": macs,
        "only": "share",
        "metrics": {receiver: "variance"},
        "output_fidelity": {donor: 1.0, receiver: floor},
    }
    return Case({donor: "class10", receiver: "class10"}, "cifar10", wishes, bars)


def _real(bars: Bars, *models: str, **wishes: Any) -> Case:
    return Case(dict.fromkeys(models, ""), REAL, wishes, bars)


RELATED = {
    "cifar10_resnet20": "class10",
    "sib_full_habitat4": "habitat4",
    "sib_full_animal2": "animal2",
}
FIVE = {**RELATED, "sib_head_animal2": "animal2", "sib_full_bright4": "bright4"}
THREE = {
    "cifar10_resnet20": "class10",
    "cifar10_resnet44": "class10",
    "sib_full_animal2": "animal2",
}
VITS = {
    "fashion_vit6_class10": "class10",
    "fashion_vit6_full_group4": "group4",
    "fashion_vit6_frozen_group4": "group4",
}

CASES: dict[str, Case] = {
    "resnet44": _resnet44(Bars(25, 0.6), 1024, max_macs="75%"),
    "resnet44-5-blocks": _resnet44(Bars(points=0.5), max_macs="76%", min_fidelity=NO_FLOOR),
    "resnet44-7-blocks": _resnet44(Bars(points=0.9), max_macs="66%", min_fidelity=NO_FLOOR),
    "resnet44-10-blocks": _resnet44(Bars(points=2.0), max_macs="51%", min_fidelity=NO_FLOOR),
    "resnet44-75-bytes": _resnet44(Bars(points=0.6), budget="75%", min_fidelity=NO_FLOOR),
    "resnet44-50-bytes": _resnet44(Bars(points=2.0), budget="50%", min_fidelity=NO_FLOOR),
    "animal2-77": _animal2("77%", 0.35),
    "animal2-53": _animal2("53%", 1.0),
    "related": Case(RELATED, "cifar10", {"budget": "40%"}, Bars(6, 0.3, 0.334)),
    "five": Case(FIVE, "cifar10", {}, Bars(10, 0.5, 0.398)),
    # A limit that as many of resnet44's 21 blocks, replaced through an adapter, keep.
    "third": _replaced("79%", 0.9, Bars(12, 0.3, blocks=7)),
    "two-thirds": _replaced("55%", 0.5, Bars(12, 1.0, blocks=14)),
    "three": Case(THREE, "cifar10", {"budget": "25%", "min_fidelity": NO_FLOOR}, Bars(30, 1.5)),
    "vits": Case(VITS, "fashion", {"budget": "60%"}, Bars(10, 0.2, 0.588)),
    "ocr2_cls": _real(Bars(25, explained=0.99), "ocr2_cls", budget="70%"),
    "safety_mobilenet_v2": _real(Bars(25, explained=0.99), "safety_mobilenet_v2", budget="70%"),
    "hands": _real(Bars(15, price=1.0), "mp_hand_landmark_lite", "mp_hand_landmark_full"),
    "detectors": _real(Bars(15, price=1.0), "ocr3_det_ch", "ocr3_det_en"),
    "resnet50-pair": Case(
        {"sibling0": "", "sibling1": ""},
        RANDOM,
        {"budget": "75%", "min_fidelity": 0.5},
        Bars(25, peak_mib=3072),
        256,
    ),
}
# Budgets out of reach, which are to be refused before any fit.
REFUSALS: dict[str, Case] = {
    "out-of-reach": Case(
        {"cifar10_resnet44": "class10"}, "cifar10", {"budget": "5%"}, Bars(passes=10), 1024
    ),
}
# Sets of models whose random combinations are predicted and measured, with their frames.
DAMAGES: dict[str, Case] = {
    "damage-resnet44": Case({"cifar10_resnet44": "class10"}, "cifar10", {}, Bars()),
    "damage-vit": Case({"fashion_vit6_class10": "class10"}, "fashion", {}, Bars()),
    "damage-mobilenet": Case({"safety_mobilenet_v2": ""}, REAL, {}, Bars()),
    "damage-pair": Case(
        {"cifar10_resnet20": "class10", "sib_full_animal2": "animal2"}, "cifar10", {}, Bars()
    ),
}
# Compiled once, and once more with the other limit and --resume.
RESUMES: dict[str, tuple[Case, str]] = {
    "resume": (_resnet44(Bars(passes=1.0), 1024, max_macs="75%"), "66%"),
}
# For the short round alone, and without bars: there is no telling from so few frames.
_RESNET20 = Case(
    {"cifar10_resnet20": "class10"},
    "cifar10",
    {"max_macs": "80%", "min_fidelity": NO_FLOOR},
    Bars(),
    baselines=True,
)
SHORT: dict[str, Case] = {"resnet20": _RESNET20}
SHORT_DAMAGES: dict[str, Case] = {"damage-resnet20": _RESNET20}
SHORT_RESUMES: dict[str, tuple[Case, str]] = {"resume-resnet20": (_RESNET20, "70%")}
