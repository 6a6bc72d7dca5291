"""What can be linked: representations, and an adapter's ends."""

from __future__ import annotations

import pytest

from repsimc.compiler.actions.links import fault_of, is_representation
from tests.nets.networks import (
    Net,
    pyramid,
    tokens_net,
)
from tests.programs import joined, program_of


@pytest.mark.parametrize(
    ("declared", "fits"),
    [
        ("float[N, 3, 8, 8]", True),
        ("float[N, 4]", True),
        ("double[N, 4]", True),
        ("float[N]", False),
        ("float[N, C, 8, 8]", False),
        ("float[N, 3, H, 8]", False),
        ("float16[N, 4]", False),
        ("int64[N, 4]", False),
        ("float[N, 2, 2, 2, 2, 2]", False),
    ],
)
def test_representations_are_floats_of_known_size(declared: str, fits: bool) -> None:
    program = program_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g ({declared} x) => ({declared} y) {{ y = Identity (x) }}"""
    )
    assert is_representation(program.graph.inputs[0]) is fits


@pytest.mark.parametrize(
    ("receiver", "donors", "kernel", "said"),
    [
        ("b/s2", ("a/s2",), 1, None),
        ("b/s2", ("a/s2", "a/c2"), 3, None),
        ("b/s2", ("a/s1",), 3, None),
        ("b/s1", ("a/s3",), 1, None),
        ("b/s1", ("a/x",), 3, None),
        ("b/s2", ("a/s2",), 0, None),
        ("b/s2", ("a/s3",), 0, "as it is has not the shape of b/s2"),
        ("b/s2", ("a/s1", "a/s2"), 1, "differ in size"),
        ("b/y", ("a/s2",), 1, "b/y is an input or output"),
        ("b/x", ("a/s2",), 1, "b/x is an input or output"),
        ("b/s2", ("a/y",), 1, "5] of a/y cannot become float32"),
        ("b/s2", ("c/t2",), 1, "cannot become"),
        ("c/t2", ("d/t2",), 1, "another number of tokens"),
        ("b/s2", ("e/s2",), 1, "no whole multiple"),
    ],
)
def test_what_can_be_linked(
    receiver: str, donors: tuple[str, ...], kernel: int, said: str | None
) -> None:
    few = Net(3)
    few.relu(few.linear("x", 10, 12), out="t2")
    few.gemm(few.node("ReduceMean", "t2", axes=[1], keepdims=0), 12, 5, out="y")
    odd = Net(4)
    odd.head(odd.relu(odd.conv("x", 3, 6), out="s2"), 6, 5)
    program = joined(
        a=pyramid(0),
        b=pyramid(1),
        c=tokens_net(0),
        d=few.model(x=("N", 4, 10)),
        e=odd.model(x=("N", 3, 6, 6)),
    )
    fault = fault_of(program, receiver, donors, kernel)
    assert fault is None if said is None else (fault is not None and said in fault)
