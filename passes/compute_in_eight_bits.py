"""Compute in 8 bits: values are rounded to grids, so that integer kernels take what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.fitting.ranges import Range, grid_of
from ..compiler.graph.eight_bits import quantise_value, values_in_eight_bits
from ..compiler.graph.program import Program, own_name
from .base import Change


@dataclass(frozen=True)
class ComputeInEightBits:
    """Put a QuantizeLinear and a DequantizeLinear behind each value, by its range.

        c = Conv(x, w)                       c = Conv(x, w)
        y = Relu(c)                   ->     y = Relu(c)
        z = Conv(y, v)                       q = QuantizeLinear(y, scale, zero)
                                             d = DequantizeLinear(q, scale, zero)
                                             z = Conv(d, v)

    `signed`: codes of int8 with zero point 0, as TensorRT wants them, else of uint8. Values that
    are not there any more, that nothing reads, or that have such a pair are left as they are.
    """

    name: ClassVar[str] = "compute-in-eight-bits"
    exact: ClassVar[bool] = False

    ranges: tuple[tuple[str, Range], ...]
    signed: bool

    def run(self, program: Program) -> list[Change]:
        """One change for every value."""
        done: list[Change] = []
        known, rounded = program.values(), set(values_in_eight_bits(program))
        for name, given in self.ranges:
            if name in known and name not in rounded and known[name].outputs:
                quantise_value(program, name, grid_of(given, self.signed))
                done.append(Change(f"'{own_name(name)}' is held in 8 bits", name))
        return done
