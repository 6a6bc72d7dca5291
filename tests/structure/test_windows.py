"""Which places a convolution's taps read, forwards and transposed."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repsimc.compiler.structure.windows import TransposedWindow, Window


def read(window: Window, size: int) -> set[tuple[int, int, int]]:
    """(output, tap, input) of all that is read on one axis."""
    (places,) = window.reads((size,))
    outputs, taps = np.nonzero(places < size)
    return set(zip(outputs.tolist(), taps.tolist(), places[outputs, taps].tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_a_transposed_window_writes_where_the_window_reads(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int]
) -> None:
    numbers = ((kernel,), (stride,), (dilation,), pads)
    window = Window(*numbers)
    reach = dilation * (kernel - 1) + 1
    assume(size + sum(pads) >= reach)
    (small,) = window.output_size((size,))
    # Several sizes give the same number of outputs; the padding says which one it was.
    back = TransposedWindow(*numbers, ((size + sum(pads) - reach) % stride,))
    assert back.output_size((small,)) == (size,)
    assert {(i, tap, o) for o, tap, i in read(window, size)} == read(back, small)
