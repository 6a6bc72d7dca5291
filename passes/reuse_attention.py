"""Let a later layer attend as an earlier one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph.program import Program, own_name
from ..compiler.structure.activation_functions import may_be_alike
from .base import Change


@dataclass(frozen=True)
class ReuseAttention:
    """An earlier layer's attention map weights a later layer's values too.

    The later layer's queries, keys and softmax are no longer read: drop-dead removes them. As in
    Reuse Transformers (arXiv 2110.06821), without training.
    """

    name: ClassVar[str] = "reuse-attention"
    exact: ClassVar[bool] = False

    earlier: str
    value: str

    def run(self, program: Program) -> list[Change]:
        """One change; none where one of the maps is gone, or the shapes differ."""
        values = program.values()
        earlier, value = values.get(self.earlier), values.get(self.value)
        if earlier is None or value is None or earlier is value or not value.outputs:
            return []
        order = {tensor.name: i for i, n in enumerate(program.graph.nodes) for tensor in n.outputs}
        if earlier.dtype != value.dtype or not may_be_alike(earlier.shape, value.shape):
            return []
        if order.get(earlier.name, len(order)) > order.get(value.name, -1):
            return []  # it would wait for itself
        maker = value.inputs[0].name
        program.replace_uses(value, earlier)
        what = f"'{own_name(earlier.name)}' serves for '{own_name(value.name)}' too"
        return [Change(what, maker)]
