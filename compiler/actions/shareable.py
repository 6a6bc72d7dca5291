"""What models could share: values that may feed others, and cuts at which others may feed."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.cuts import Cut, cuts
from ..graph.layout import ACTIVATIONS, pre_activation
from ..graph.program import Program
from .bill import Bills
from .links import is_representation


def donor_values(program: Program, model: str) -> list[str]:
    """Float values of a model that may feed others: its cuts and its activations, in order."""
    outputs = {value.name for value in program.graph.outputs}
    known = program.values()
    names: list[str] = []
    for cut in cuts(program, model, max_width=1):
        value = known[cut.values[0]]
        names += [value.name, pre_activation(value, outputs).name]
    for node in program.nodes_of(model):
        if node.op in ACTIVATIONS and not node.domain:
            names.append(node.outputs[0].name)
    order = {t.name: i for i, n in enumerate(program.graph.nodes) for t in n.outputs}
    unique = [name for name in dict.fromkeys(names) if name in order and name not in outputs]
    return sorted((n for n in unique if is_representation(known[n])), key=order.__getitem__)


def receiver_cuts(program: Program, model: str) -> list[Cut]:
    """Cuts of a model at which its suffix could be fed by another model."""
    known = program.values()
    outside = {value.name for value in (*program.graph.outputs, *program.graph.inputs)}
    return [
        cut
        for cut in cuts(program, model)
        if cut.depth > 0
        and all(name not in outside and is_representation(known[name]) for name in cut.values)
    ]


def values_to_sample(program: Program, models: Sequence[str], bills: Bills) -> list[str]:
    """The values of some models that `sites_among` compares."""
    names: list[str] = []
    for model in models:
        names += donor_values(program, model)
        for cut in receiver_cuts(program, model):
            names += [*cut.values, *(bills.replaced(value, 1) for value in cut.values)]
    return list(dict.fromkeys(names))


def fixes_sizes(program: Program, donor: str, receiver: str) -> bool:
    """Whether the receiver takes batches or sizes that the donor does not.

    What the donor computes would then be of one size, and the receiver's promise to take any lost.
    """
    fixed, free = _free_sizes(program, donor), _free_sizes(program, receiver)
    return any(mine and not theirs for theirs, mine in zip(fixed, free))


def _free_sizes(program: Program, model: str) -> tuple[bool, bool]:
    """Whether the first axis of an input of the model is free, and whether another one is."""
    values = program.values()
    shapes = [values[value].shape or () for value in program.models[model].inputs.values()]

    def free(dims: Sequence[object]) -> bool:
        return any(not isinstance(dim, int) or dim < 1 for dim in dims)

    return any(free(s[:1]) for s in shapes), any(free(s[1:]) for s in shapes)


def distinct(bills: Bills, found: Sequence[Cut]) -> list[Cut]:
    """The cuts, one for each rewrite: a ReLU's output and its input are two cuts but one."""
    unique = {tuple(bills.replaced(name, 1) for name in cut.values): cut for cut in found}
    return list(unique.values())
