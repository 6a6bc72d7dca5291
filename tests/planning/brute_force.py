"""Every combination of a few candidates, one after another: what the integer program is held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from repsimc.compiler.actions.action import Action, Effect, Stage
from repsimc.compiler.actions.bill import Bill
from repsimc.compiler.actions.combining import check_together
from repsimc.compiler.errors import ModelError
from repsimc.compiler.graph.program import node_inputs
from repsimc.compiler.planning.damage import Output
from repsimc.compiler.planning.formulation.candidates import Candidate
from repsimc.compiler.planning.integer_program import MEAN_SHARE
from tests.nets.candidates import Given


@dataclass(frozen=True)
class Tried:
    """A combination that is allowed, with its exact bill and its predicted errors."""

    candidates: tuple[Candidate, ...]
    bill: Bill
    errors: Mapping[Output, float]

    def damage(self, importance: Mapping[Output, float] | None = None) -> float:
        felt = [(importance or {}).get(o, 1.0) * error for o, error in self.errors.items()]
        return max(felt) + MEAN_SHARE * sum(felt) / len(felt)


def allowed(
    given: Given, candidates: Sequence[Candidate], held: Sequence[Action] = ()
) -> Iterator[Tried]:
    """All combinations that the rules admit, beside what is held."""
    apart = [
        {one, other}
        for one, other in combinations(range(len(candidates)), 2)
        if not _may_stand_together(given, candidates[one], candidates[other])
    ]
    apart += [
        {one}
        for one, candidate in enumerate(candidates)
        if any(not _stand(given, [candidate.action, action]) for action in held)
    ]
    for size in range(len(candidates) + 1):
        for indices in combinations(range(len(candidates)), size):
            if any(pair <= {*indices} for pair in apart):
                continue
            chosen = [candidates[index] for index in indices]
            bill = given.bills.bill([*held, *(one.action for one in chosen)])
            if bill is not None:
                yield Tried(tuple(chosen), bill, predicted(given, chosen, held))


def _may_stand_together(given: Given, one: Candidate, other: Candidate) -> bool:
    looks = one.site.look, other.site.look
    if None not in looks and looks[0] == looks[1]:
        return False
    regions = one.action.stage is Stage.REGIONS and other.action.stage is Stage.REGIONS
    if regions and {*one.site.nodes} & {*other.site.nodes}:
        return False
    return _stand(given, [one.action, other.action])


def _stand(given: Given, pair: Sequence[Action]) -> bool:
    sharing = all(action.stage is Stage.SHARING for action in pair)
    if sharing and pair[0].models[-1] == pair[1].models[-1]:
        return False
    try:
        check_together(pair, given.program)
    except ModelError:
        return False
    return True


def predicted(
    given: Given, chosen: Sequence[Candidate], held: Sequence[Action] = ()
) -> dict[Output, float]:
    """The sum of the errors, and of what donors' actions do to those that take from them."""
    total = dict.fromkeys(given.outputs, 0.0)
    worst = dict.fromkeys(held, 0.0)
    for one in chosen:
        own = [e for (model, _), e in one.errors.items() if model == one.site.receiver]
        worst[one.action] = max(own or one.errors.values(), default=0.0)
        for output, error in one.errors.items():
            total[output] += error

    def above(taking: Action) -> list[Action]:
        return [one for one in worst if one != taking and _takes_from_behind(given, taking, one)]

    def lost(taking: Action, on_the_way: tuple[Action, ...] = ()) -> float:
        if taking in on_the_way:
            return 0.0  # they wait for each other: one of them is not needed
        way = (*on_the_way, taking)
        shared = [one for one in above(taking) if one.stage is Stage.SHARING]
        return sum(worst[one] for one in above(taking)) + sum(lost(one, way) for one in shared)

    for taking in worst:
        if taking.stage is Stage.SHARING:
            for output in _outputs_behind(given, taking):
                for one in above(taking):
                    if output not in _outputs_behind(given, one):
                        total[output] += worst[one]
                    if one.stage is Stage.SHARING:
                        total[output] += lost(one)
    return total


def _made(given: Given, action: Action) -> set[str]:
    effect = given.bills.effect(action)
    assert isinstance(effect, Effect)
    swapped = {given.bills.replaced(swap.value, swap.kernel) for swap in effect.swaps}
    return {*effect.values} | swapped


@cache
def _behind(given: Given, action: Action) -> frozenset[str]:
    """The values that depend on what an action makes, as the models are."""
    reached = _made(given, action)
    for node in given.program.graph.nodes:
        if any(tensor.name in reached for tensor in node_inputs(node)):
            reached |= {tensor.name for tensor in node.outputs}
    return frozenset(reached)


def _takes_from_behind(given: Given, taking: Action, action: Action) -> bool:
    effect = given.bills.effect(taking)
    assert isinstance(effect, Effect)
    behind = _behind(given, action)
    return any(source in behind for swap in effect.swaps for source in swap.sources)


@cache
def _outputs_behind(given: Given, action: Action) -> frozenset[Output]:
    behind = _behind(given, action)
    return frozenset(
        (name, own)
        for name, model in given.program.models.items()
        for own, value in model.outputs.items()
        if value in behind
    )
