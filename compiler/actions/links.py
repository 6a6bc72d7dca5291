"""Whether a donor's values can take the place of a receiver's: shapes, dtypes, layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..graph.free_size import are_known, equal_shapes, ratio_of, shown, size_of
from ..graph.layout import Layout, layout_of
from ..graph.program import Dimension, Program


def is_representation(value: gs.Variable) -> bool:
    """Whether a value can be donated or replaced: float, rank 2 to 5, sizes known on the frames."""
    shape: Any = value.shape
    if shape is None or not 2 <= len(shape) <= 5 or value.dtype is None:
        return False
    if value.dtype not in (np.float32, np.float64):
        return False
    return are_known(shape[1:])


def fault_of(
    program: Program, receiver_value: str, donor_values: Sequence[str], kernel: int
) -> str | None:
    """Why no adapter of that kernel can stand between the values; None when one can.

    The values have to exist. Donors have one size; it is the receiver's or a whole multiple of
    it, one way or the other, tokens correspond one to one. Kernel 0 takes the donor as it is.
    """
    values = program.values()
    receiver = values[receiver_value]
    donors = [values[name] for name in donor_values]
    if receiver_value in {value.name for value in (*program.graph.inputs, *program.graph.outputs)}:
        return f"{receiver_value} is an input or output of a model"
    for value in (receiver, *donors):
        if not is_representation(value):
            return f"{value.name} is {_described(value)}, which no adapter reads or makes"
    layout = layout_of(receiver)
    for donor in donors:
        if donor.dtype != receiver.dtype or len(donor.shape) != len(receiver.shape):
            return f"{_described(donor)} of {donor.name} cannot become {_described(receiver)}"
        if layout_of(donor) is not layout:
            return f"{donor.name} has its channels on another axis than {receiver_value}"
    wanted, given = _size(receiver, layout), _size(donors[0], layout)
    if any(not equal_shapes(_size(donor, layout), given) for donor in donors):
        return f"the donors {', '.join(donor_values)} differ in size"
    channels = sum(_channels(donor, layout) for donor in donors)
    same = equal_shapes(given, wanted)
    if kernel == 0 and not (same and channels == _channels(receiver, layout)):
        return f"{' + '.join(donor_values)} as it is has not the shape of {receiver_value}"
    if layout is Layout.CHANNELS_LAST:
        return None if same else f"{donor_values[0]} has another number of tokens"
    pairs = list(zip(given, wanted))
    larger = all(ratio_of(a, b) is not None for a, b in pairs)
    smaller = all(ratio_of(b, a) is not None for a, b in pairs)
    if not (larger or smaller):
        return (
            f"the size of {donor_values[0]}, {shown(given)}, is no whole multiple or fraction of "
            f"that of {receiver_value}, {shown(wanted)}"
        )
    return None


def adapter_window(reader: Reader) -> int:
    """An adapter's window as a plan has it: 0, 1 or 3. Raises ModelError for anything else."""
    if isinstance(reader.value, bool) or reader.value not in (0, 1, 3):
        raise reader.wrong("0, 1 or 3")
    return int(reader.value)


def check_link(
    program: Program, receiver_value: str, donor_values: Sequence[str], kernel: int
) -> None:
    """Refuse values that are not there, or that no adapter can stand between. Raises ModelError."""
    hint = "`repsimc inspect MODEL` lists the values where a model can be cut"
    values = program.values()
    for value in (receiver_value, *donor_values):
        if value not in values:
            raise ModelError(f"the plan names value {value!r}, which is not in the program", hint)
    fault = fault_of(program, receiver_value, donor_values, kernel)
    if fault is not None:
        raise ModelError(f"the plan links what cannot be linked: {fault}", hint)


def _size(value: gs.Variable, layout: Layout) -> tuple[Dimension, ...]:
    return tuple(value.shape[1:-1] if layout is Layout.CHANNELS_LAST else value.shape[2:])


def _channels(value: gs.Variable, layout: Layout) -> int:
    return size_of(value.shape[-1 if layout is Layout.CHANNELS_LAST else 1]) or 0


def _described(value: gs.Variable) -> str:
    shape = "of unknown shape" if value.shape is None else shown(value.shape)
    return f"{np.dtype(value.dtype).name if value.dtype is not None else 'untyped'} {shape}"
