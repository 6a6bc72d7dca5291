"""In how many bits weights stand: those of their numbers, or of their codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from ..graph.program import constants_of, constants_of_bodies, is_standard
from ..graph.stored_weight import StoredWeight
from ..graph.weights import array_of, element_nbits, element_type, held_key, nbytes_of

# Of texts, which have no fixed size: their bytes.
_TEXT_BITS = 8


@dataclass(frozen=True)
class HeldWeight:
    """A weight as a file holds it: bits of one of its numbers, and its bytes."""

    bits: int
    nbytes: int


def held_weights(nodes: Iterable[gs.Node]) -> dict[str, HeldWeight]:
    """The weights that the nodes and their bodies read, by the key of what is held once.

    Scales and zero points of a weight that DequantizeLinear multiplies out count as its codes do.
    """
    nodes = list(nodes)
    top = constants_of(nodes)
    above = {tensor.name for tensor in top}
    inside = [tensor for tensor in constants_of_bodies(nodes) if tensor.name not in above]
    keyed = [(held_key(tensor), tensor) for tensor in top]
    keyed += [(held_key(tensor, in_body=True), tensor) for tensor in inside]
    found: dict[str, HeldWeight] = {}
    for key, tensor in keyed:
        # Numbers that happen to be some weight's scales are held with them, and are numbers.
        bits = max(_bits(tensor), found[key].bits if key in found else 0)
        found[key] = HeldWeight(bits, nbytes_of(tensor))
    return found


def nbytes_by_bits(weights: Iterable[HeldWeight]) -> Mapping[str, int]:
    """Bytes by how many bits they stand in, as texts, the most bits first: {"32": n, "8": n}."""
    found: dict[int, int] = {}
    for weight in weights:
        found[weight.bits] = found.get(weight.bits, 0) + weight.nbytes
    return {str(bits): found[bits] for bits in sorted(found, reverse=True) if found[bits]}


def _bits(constant: gs.Constant) -> int:
    if isinstance(constant, StoredWeight):
        return constant.bits
    codes = [_codes_scaled_by(constant, reader) for reader in constant.outputs]
    scaled = [code for code in codes if code is not None]
    if scaled and len(scaled) == len(codes):
        return max(map(_element_bits, scaled))
    return _element_bits(constant)


def _codes_scaled_by(constant: gs.Constant, reader: gs.Node) -> gs.Constant | None:
    """The constant whose scale, or zero point, the reader takes from this one."""
    if reader.op != "DequantizeLinear" or not is_standard(reader):
        return None
    codes = reader.inputs[0]
    return codes if isinstance(codes, gs.Constant) and codes is not constant else None


def _element_bits(constant: gs.Constant) -> int:
    array = array_of(constant)
    return _TEXT_BITS if array.dtype.hasobject else element_nbits(element_type(array.dtype))
