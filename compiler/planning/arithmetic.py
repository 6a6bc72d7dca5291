"""Arithmetic in 8 bits on top of a plan: as much as the floors allow, by measured damage.

Bytes and multiply-accumulates stay what they are, so the integer program has no reason to choose
it. It comes last, for a target whose kernels count: every value that they could take is rounded
alone and the outputs compared, range by range; those that cost most stay in float, as many as the
floors ask for. Full fits decide: weights are fitted anew to what rounded values feed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...passes.compute_in_eight_bits import ComputeInEightBits
from ..actions.compute_in_eight_bits import actions_of
from ..execution.executable import Executable, frame_nbytes
from ..execution.feeds import FrameSet, fit_feeds
from ..execution.outputs import OutputComparison
from ..fitting.ranges import Range, grid_of, lost_share, ranges_worth_trying, rounded
from ..graph.arrays import Float32
from ..graph.program import Program, node_inputs
from ..progress import Progress
from ..structure.integer_kernels import TENSORRT, most_of, supported, units_of
from .plan import Plan, PlannedAction
from .trial import Trial
from .workbench import Workbench

# Frames of a look, and as many bytes as the values that are looked at may take on them.
_FRAMES = 8
_LOOK_NBYTES = 512 << 20
# Frames that ranges are taken from, and numbers of each batch for what is no extreme.
_RANGE_FRAMES = 64
_SAMPLED = 1 << 15
# Of ranges that do about as little damage the widest is taken, which clips least of what other
# frames bring: by this share of the least, and this much, a range may do more.
_ABOUT, _HARDLY = 1.25, 2e-5
# Full fits, each on all frames.
_FITS = 4
# Of what weights in few bits leave of a floor's room, arithmetic takes this share at most. A frame
# with numbers that no other had is clipped: on other photographs than those of the frames, and on
# other fonts, two networks lost twice and three times what held-out frames showed, half of it on
# one frame out of 40.
_SHARE = 0.5


@dataclass(frozen=True)
class Look:
    """The range of a value that does least damage, and the damage.

    That is the share of its variance that the worst output loses where this value alone is rounded.
    """

    range: Range
    loss: float


class Arithmetic:
    """Finds which values to round for a target's kernels."""

    def __init__(self, bench: Workbench, target: str, progress: Progress) -> None:
        self._bench = bench
        self._target = target
        self._progress = progress
        self.looks: dict[str, Look] = {}

    def added_to(self, plan: Plan, trial: Trial) -> tuple[Plan, Trial]:
        """The plan with arithmetic in 8 bits as far as the floors allow, and its program.

        The given ones where nothing of it keeps the floors, or could be computed so.
        """
        values = self._possible(trial.program)
        if not values or self._bench.deadline.over:
            return plan, trial
        self._look(trial.program, values)
        # Worst first; what cannot be rounded at all has no look.
        order = sorted(self.looks, key=lambda name: (-self.looks[name].loss, name))
        best: tuple[int, Trial] | None = None
        missed = -1
        count = self._fewest_in_float(trial, order)
        for _ in range(_FITS):
            if count > len(order) or self._bench.deadline.over:
                break
            tried = self._fitted(trial, self._left(trial.program, order[count:]))
            if tried is None:
                break
            if _keeps(tried.outputs, trial.outputs):
                best = count, tried
            else:
                missed = count
            if best is None:
                count += max(1, (len(order) - count) // 3)
            elif best[0] - missed <= 1:
                break
            else:
                count = (missed + best[0]) // 2
        if best is None:
            return plan, trial
        added = [action for action in best[1].actions if action not in trial.actions]
        planned = [PlannedAction(action, fidelity=best[1].least) for action in added]
        return replace(plan, actions=(*plan.actions, *planned)), best[1]

    # -- what could be ---------------------------------------------------------------------------

    def _possible(self, program: Program) -> list[str]:
        """The values that kernels could take, but those that other rewrites made."""
        units = units_of(program, self._target)
        known = set(self._bench.program.values())
        values = {value for unit in units for value in unit.values if value in known}
        _, kept = supported(units, values, self._target)
        return kept

    def _left(self, program: Program, values: Sequence[str]) -> dict[str, Range]:
        """Of the values, with their ranges, those by which something still runs in 8 bits."""
        _, kept = supported(units_of(program, self._target), values, self._target)
        return {name: self.looks[name].range for name in kept}

    # -- looks -----------------------------------------------------------------------------------

    def _look(self, program: Program, values: Sequence[str]) -> None:
        """Fill `looks`: a value alone, range by range, on a few frames that fits may see."""
        for group in self._bench.evidence.groups:
            reached = {t.name for n in group for node in program.nodes_of(n) for t in node.outputs}
            inputs = {v for name in group for v in program.models[name].inputs.values()}
            mine = [v for v in values if v in reached | inputs and v not in self.looks]
            if mine:
                self._look_at(program, group, mine)

    def _look_at(self, program: Program, group: Sequence[str], values: Sequence[str]) -> None:
        tensors = program.values()
        frame = sum(frame_nbytes(tensors[name]) for name in values)
        few = max(2, min(_FRAMES, _LOOK_NBYTES // max(frame, 1)))
        tries = self._ranges(program, self._feeds(program, group, _RANGE_FRAMES), values)
        outputs = list(dict.fromkeys(v for n in group for v in program.models[n].outputs.values()))
        feeds = self._feeds(program, group, few)
        everything = list(dict.fromkeys([*values, *outputs]))
        whole = Executable(program, None, everything)
        inputs = sorted(program.input_names)
        held = [{**batch, **dict(zip(everything, whole(batch)))} for batch in feeds.batches(inputs)]
        self._progress.stage("looking at values in 8 bits", len(values))
        for value in values:
            behind = _behind(program, value)
            known = [name for name in values if name not in behind]
            moved = [name for name in outputs if name in behind]
            if not moved:
                continue
            piece = Executable(program, [*known, value], moved)
            found: list[Look] = []
            for given in tries.get(value, ()):
                grid = grid_of(given, self._target == TENSORRT)
                made = [piece({**one, value: rounded(one[value], grid)}) for one in held]
                loss = max(
                    lost_share([one[index] for one in made], [one[name] for one in held])
                    for index, name in enumerate(moved)
                )
                found.append(Look(given, loss))
            if found:
                least = min(look.loss for look in found)
                near = (look for look in found if look.loss <= _ABOUT * least + _HARDLY)
                self.looks[value] = next(near, found[0])
            self._progress.advance()

    def _feeds(self, program: Program, group: Sequence[str], frames: int) -> FrameSet:
        all_frames = self._bench.case.frames
        assert all_frames is not None
        return fit_feeds(program, all_frames, group[0], frames)

    def _ranges(
        self, program: Program, feeds: FrameSet, values: Sequence[str]
    ) -> dict[str, list[Range]]:
        """The ranges to try of each value; none of one with numbers that are not finite."""
        segment, tensors = Executable(program, None, list(values)), program.values()
        lows: dict[str, float] = {}
        highs: dict[str, float] = {}
        samples: dict[str, list[Float32]] = {}
        for batch in feeds.batches(segment.inputs):
            for name, array in zip(segment.outputs, segment(batch)):
                flat = array.reshape(-1)
                lows[name] = min(lows.get(name, 0.0), float(flat.min(initial=0.0)))
                highs[name] = max(highs.get(name, 0.0), float(flat.max(initial=0.0)))
                step = max(1, flat.size // _SAMPLED) | 1  # odd: not always the same column
                samples.setdefault(name, []).append(flat[::step].astype(np.float32))
        found: dict[str, list[Range]] = {}
        for name, parts in samples.items():
            if np.isfinite(lows[name]) and np.isfinite(highs[name]):
                sample = np.concatenate(parts)
                signed = self._target == TENSORRT
                extremes, most = (lows[name], highs[name]), most_of(tensors[name])
                found[name] = ranges_worth_trying(sample, extremes, signed, most)
        return found

    # -- trials ----------------------------------------------------------------------------------

    def _fewest_in_float(self, trial: Trial, order: Sequence[str]) -> int:
        """How many values, the worst ones, have to stay in float where nothing is fitted to it."""
        low, high = 0, len(order)
        self._progress.stage("choosing what stays in float", None)
        while low < high and not self._bench.deadline.over:
            count = (low + high) // 2
            program = trial.program.copy()
            ranges = self._left(program, order[count:])
            signed = self._target == TENSORRT
            ComputeInEightBits(tuple(ranges.items()), signed).run(program)
            if _keeps(self._bench.compare(program), trial.outputs):
                high = count
            else:
                low = count + 1
        return high

    def _fitted(self, trial: Trial, ranges: Mapping[str, Range]) -> Trial | None:
        """The plan with these values in 8 bits, by a full fit; None where none are left."""
        if not ranges:
            return None
        actions = actions_of(self._bench.program, ranges, self._target)
        return self._bench.measure((*trial.actions, *actions))


def _keeps(found: Sequence[OutputComparison], before: Sequence[OutputComparison]) -> bool:
    """Whether every floor is kept with room, by what the outputs were `before`."""
    return all(
        one.met and one.judged >= one.floor + (1.0 - _SHARE) * (other.judged - one.floor)
        for one, other in zip(found, before, strict=True)
    )


def _behind(program: Program, value: str) -> set[str]:
    """The value, and all that is computed from it."""
    reached = {value}
    for node in program.graph.nodes:
        if any(tensor.name in reached for tensor in node_inputs(node)):
            reached.update(tensor.name for tensor in node.outputs)
    return reached
