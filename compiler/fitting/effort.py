"""How much a measurement is given: the eight sizes of fits that a compilation makes."""

from __future__ import annotations

from dataclasses import dataclass, field

from .reference import FitSize


@dataclass(frozen=True)
class Effort:
    """A fit on so many frames, and the frames that the outputs are then compared on (None: all).

    They are `held_out` ones, which no fit sees, or fit frames that this fit did not see.
    """

    frames: int | None = None
    judged: int | None = None
    size: FitSize = field(default_factory=FitSize)
    held_out: bool = True


# What is kept: verified after every pass, tidied up, fitted and compared on all frames.
FULL = Effort()
# A swap between models is judged by this one; the chosen plan is then fitted on all frames, so that
# what the search measured is a lower bound in practice.
SEARCH = Effort(512, None, FitSize(16))
# Frames matter more than rows: on resnet44 the choice by fits on 256 frames with 16 rows per
# unknown lost 1.2 points with 7 blocks out, by 512 frames with 8 rows 0.9 (10 out: 3.5 and 2.7).
TRIAL = Effort(512, 256, FitSize(8, 2048, 3e-3, pools_behind=False))
# For whole plans beside each other, of which the best is fitted on all frames.
PROPOSAL = Effort(256, 192, FitSize(8, 1024, 3e-3, pools_behind=False))
# For a curve alone: it says where to look closer, and costs less than a compiled pick.
CURVE = Effort(144, 256, FitSize(6, 1024, 3e-3, pools_behind=False))
# For the first look, where everything is tried: enough to tell the third that is worth a trial.
GLANCE = Effort(128, 256, FitSize(4, 512, 0.3, pools_behind=False))
# For the local residuals of sites, which rank: what all of a layer's units and runs are tried on.
SURVEY = Effort(128, 128, FitSize(8, 2048, 3e-3, pools_behind=False), held_out=False)
# For one action alone: only the four operators next to the change are fitted, the rest runs as it
# is, on frames that neither this fit saw nor the plan will be judged by.
LOOK = Effort(48, 48, FitSize(4, 256, 0.3, pools_behind=False, reach=4), held_out=False)
