"""What of a program integer kernels compute, and why the rest of its products stays in float."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.eight_bits import values_in_eight_bits
from ..graph.program import Program, own_name
from ..structure.cost import node_macs
from ..structure.integer_kernels import is_product, nodes_in_eight_bits, units_of, why_no_kernel
from .report import FloatOperator


def macs_in_eight_bits(program: Program, model: str) -> int:
    """Multiply-accumulates per frame of a model that integer kernels make."""
    done = nodes_in_eight_bits(program, values_in_eight_bits(program))
    return sum(node_macs(node) for node in program.nodes_of(model) if node.name in done)


def computed_in_float(
    program: Program, model: str, target: str, lost: Mapping[str, float]
) -> tuple[FloatOperator, ...]:
    """The products of a model that stay in float, each with why.

    `lost` is by value what rounding it alone was seen to lose of the worst output.
    """
    rounded = values_in_eight_bits(program)
    done = nodes_in_eight_bits(program, rounded)
    units = {unit.node.name: unit for unit in units_of(program, target)}
    found: list[FloatOperator] = []
    for node in program.nodes_of(model):
        if not is_product(node) or node.name in done or not (macs := node_macs(node)):
            continue
        why, loss = why_no_kernel(node, target), None
        unit = units.get(node.name)
        if not why and unit is None:
            why = "makes an output"
        elif not why and unit is not None:
            missing = [value for value in unit.values if value not in rounded]
            losses = [lost[value] for value in missing if value in lost]
            loss = max(losses, default=None)
            unseen = len(losses) < len(missing)
            why = "next to what stays in float" if unseen or not missing else "not in the plan"
            loss = None if why != "not in the plan" else loss
        found.append(FloatOperator(own_name(node.name), macs, why, loss))
    return tuple(found)
