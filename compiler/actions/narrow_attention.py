"""Narrow attention: queries and keys keep fewer dimensions per head, fitted to the logits (CORP).

Per head, the logits are a bilinear form q^T k. Of all forms of rank r, the one nearest to it on the
frames is a truncated singular value decomposition in coordinates in which queries and keys are
white; what it takes is folded into the projections. Closed form, from moments of d x d numbers.
After CORP (arXiv 2602.05243), which keeps some of the dimensions and corrects the others' absence
by least squares; here the subspace is chosen, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import onnx_graphsurgeon as gs

from ...passes.base import Change, Pass
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..execution.executable import Executable
from ..execution.feeds import FrameSet, run_on
from ..fitting.attention_heads import Attention, Heads, attention_behind, made_by, with_channels
from ..fitting.reference import Reference
from ..fitting.regression import Affine, products_in_threads
from ..graph.arrays import Array, Float64
from ..graph.edit import Edit
from ..graph.program import FreeNames, Note, Program, constants_of, own_name
from ..graph.weights import unique_nbytes
from ..structure.activation_functions import attends
from .action import Disturbed, Effect, OneModel, Reads
from .evidence import Evidence
from .site import Site, Sites, owners_of

# Shares of a head's dimensions that are tried: of 32, 64 or 128 they are multiples that run fast.
_LEFT = (Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))
# Logits that lose more than this share of their variance are not tried.
_MOST_LOST = 0.25
# Directions whose singular value is below this share of the first one's: a head would need large
# weights for a part of 1e-8 of its logits, and rounding decides which.
_LEAST_SINGULAR = 1e-4


# -- what the logits need --------------------------------------------------------------------------


class _Forms(NamedTuple):
    """Per head: maps of queries and keys [heads, dims, dims], best first, and singular values.

    The squares of the singular values are shares of the logits' variance.
    """

    queries: Float64
    keys: Float64
    singular: Float64

    def lost(self, dims: int) -> float:
        """The share of the logits' variance that so many dimensions per head lose."""
        power = np.square(self.singular)
        whole = float(power.sum())
        return float(power[:, dims:].sum()) / whole if whole > 0 else 0.0

    def of_rank(self, dims: int) -> tuple[Float64, Float64]:
        """The maps to so many dimensions."""
        return self.queries[:, :, :dims], self.keys[:, :, :dims]


# Measured once for each reference and model: neither a reference's program nor its frames change.
_KNOWN: WeakKeyDictionary[Reference, dict[str, Mapping[str, _Forms]]] = WeakKeyDictionary()


def _forms_of(reference: Reference, model: str) -> Mapping[str, _Forms]:
    """The forms of all attention in a model, by map: one pass over the reference's frames."""
    known = _KNOWN.setdefault(reference, {})
    if model not in known:
        layers = _layers(reference.program, model).values()
        blocks = [block for block in layers if isinstance(block, Attention)]
        known[model] = _forms(reference.program, reference.frames, blocks) if blocks else {}
    return known[model]


def _layers(program: Program, model: str) -> dict[str, Attention | str]:
    """A model's attention by map, or why it cannot be narrowed."""
    softmaxes = [node for node in program.nodes_of(model) if node.op == "Softmax"]
    maps = [node.outputs[0].name for node in softmaxes if attends(node)]
    return {value: attention_behind(program, value) for value in maps}


@products_in_threads()
def _forms(program: Program, frames: FrameSet, blocks: Sequence[Attention]) -> dict[str, _Forms]:
    """How the logits of each block depend on directions of its queries and keys, on the frames.

    The moments are those by which a softmax tells logits apart: second moments of the queries, and
    covariances of the keys within a frame under the attention that each query pays them, since what
    all keys of a query have in common, it ignores.
    """
    wanted = [(b.queries.value.name, b.keys.value.name, b.value.name) for b in blocks]
    segment = Executable(program, None, list(dict.fromkeys(n for names in wanted for n in names)))
    moments: dict[str, tuple[Float64, Float64]] = {}
    for _, arrays in run_on(frames, segment):
        for block, names in zip(blocks, wanted):
            q, k, weights = (arrays[name] for name in names)
            new = _moments(
                block.queries.apart(q),
                block.keys.apart(k.swapaxes(-1, -2)),
                block.queries.apart(weights),
            )
            old = moments.get(names[2])
            moments[names[2]] = new if old is None else (old[0] + new[0], old[1] + new[1])
    # Where a map is NaN (a row that is masked as a whole), nothing can be told.
    finite = {name: both for name, both in moments.items() if np.isfinite(both).all()}
    return {name: _decomposed(*both) for name, both in finite.items()}


def _moments(q: Array, k: Array, weights: Array) -> tuple[Float64, Float64]:
    """Moments [heads, dims, dims] of queries and of keys, summed over groups and queries.

    q [heads, groups, queries, dims], k [heads, groups, keys, dims], and the map between them.
    """
    # Nothing depends on the keys' mean, and centred ones cancel less.
    k = k - k.mean(axis=2, keepdims=True)
    shares = np.sqrt(weights.sum(axis=2))[..., None]
    seen = np.matmul(weights, k)
    return _squares(q), _squares(k * shares) - _squares(seen)


def _squares(rows: Array) -> Float64:
    flat = rows.reshape(rows.shape[0], -1, rows.shape[-1]).astype(np.float64)
    return np.matmul(flat.transpose(0, 2, 1), flat)


def _decomposed(queries: Float64, keys: Float64) -> _Forms:
    """The singular value decomposition of every head's logits, as maps of queries and keys.

    With G = R^T R of the queries and of the keys, and R_q R_k^T = X S Y^T, the maps R_k^T Y S^-1/2
    and R_q^T X S^-1/2 are inverse to each other; their first r columns are the best form of rank r.
    """
    left, right = _root(queries), _root(keys)
    x, singular, yt = np.linalg.svd(np.matmul(left, right.transpose(0, 2, 1)))
    kept = singular > _LEAST_SINGULAR * singular[:, :1]
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, singular, 1.0)), 0.0)[:, None]
    q_map = np.matmul(right.transpose(0, 2, 1), yt.transpose(0, 2, 1)) * scale
    k_map = np.matmul(left.transpose(0, 2, 1), x) * scale
    # A pair of singular vectors may be turned round: the largest number of each map is positive.
    largest = np.abs(q_map).argmax(axis=1)[:, None]
    signs = np.where(np.take_along_axis(q_map, largest, axis=1) < 0, -1.0, 1.0)
    return _Forms(q_map * signs, k_map * signs, singular)


def _root(gram: Float64) -> Float64:
    """R with R^T R = gram, for a matrix per head that is positive but for rounding."""
    values, vectors = np.linalg.eigh(gram)
    return np.sqrt(np.maximum(values, 0.0))[..., None] * vectors.transpose(0, 2, 1)


# -- the rewrite -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NarrowAttention:
    """The queries and keys behind an attention map get `dims` dimensions per head.

    What cut heads out of the projections is written anew, for any number of frames and tokens.
    """

    name: ClassVar[str] = "narrow-attention"
    exact: ClassVar[bool] = False

    model: str
    value: str
    dims: int
    reference: Reference

    def run(self, program: Program) -> list[Change]:
        """One change; none where an earlier action took the attention away."""
        if self.value not in program.values():
            return []
        block = attention_behind(program, self.value)
        if isinstance(block, str) or self.dims >= block.queries.dims:
            return []
        forms = _forms_of(self.reference, self.model).get(self.value)
        if forms is None or forms.singular.shape != block.queries.columns.shape:
            return []
        adds = [operator.bias_node or operator.node for operator, _ in block.operators]
        nodes = [*(operator.node for operator, _ in block.operators), *adds]
        before = unique_nbytes(constants_of(nodes))
        _narrow(program, block, forms, self.dims, self.name)
        saved = before - unique_nbytes(constants_of(nodes))
        kept = f"{self.dims} of {block.queries.dims} dimensions per head stay"
        what = f"{kept} in the queries and keys of '{own_name(self.value)}'"
        return [Change(what, block.logits.name, saved)]


def _narrow(program: Program, block: Attention, forms: _Forms, dims: int, by: str) -> None:
    """Give the block's projections fewer channels, and cut the heads out of them anew."""
    names, edit = program.names(), Edit(program)
    q_map, k_map = forms.of_rank(dims)
    maps: Mapping[int, Float64] = {id(block.queries): q_map, id(block.keys): k_map}
    readers = {id(heads): (node, index) for heads, node, index in block.reads}
    for operator, parts in block.operators:
        present = operator.affine()
        weights = [_mapped(present.weight[0], heads, maps.get(id(heads))) for heads in parts]
        biases = [_mapped(present.bias, heads, maps.get(id(heads))) for heads in parts]
        affine = Affine(np.concatenate(weights, axis=1)[None], np.concatenate(biases, axis=1))
        fitted = with_channels(program, operator, affine)
        program.note_fit(operator.node.name, by)
        made: list[gs.Node] = []
        cut = _split(names, fitted.result, [weight.shape[1] for weight in weights], made)
        for heads, tensor in zip(parts, cut):
            node, index = readers[id(heads)]
            node.inputs[index] = _cut(names, heads, tensor, _dims_left(block, heads, dims), made)
        maker = fitted.result.inputs[0]
        place = next(i for i, node in enumerate(program.graph.nodes) if node is maker)
        program.graph.nodes[place + 1 : place + 1] = made
        for node in made:
            program.notes[node.name] = Note((operator.node.name,), by)
    edit.remove(block.gone)
    edit.done()


def _mapped(array: Float64, heads: Heads, maps: Float64 | None) -> Float64:
    """Channels [rows, heads * r] of some heads from a projection's [rows, channels]."""
    picked = array[:, heads.columns] * heads.factor
    if maps is not None:
        picked = np.einsum("ihd,hdr->ihr", picked, maps)
    return picked.reshape(len(array), -1)


def _split(
    names: FreeNames, value: gs.Tensor, widths: Sequence[int], made: list[gs.Node]
) -> list[gs.Tensor]:
    """The value's channels in parts of these widths; itself where there is one part."""
    if len(widths) == 1:
        return [value]
    name = names.free(f"{value.name}.split")
    sizes = gs.Constant(names.free(f"{name}.sizes"), np.array(widths, np.int64))
    lead = value.shape[:-1]
    parts: list[gs.Tensor] = [
        gs.Variable(names.free(f"{name}.{index}"), value.dtype, (*lead, width))
        for index, width in enumerate(widths)
    ]
    made.append(gs.Node("Split", name, {"axis": -1}, [value, sizes], list(parts)))
    return parts


def _cut(
    names: FreeNames, heads: Heads, value: gs.Tensor, dims: int, made: list[gs.Node]
) -> gs.Tensor:
    """The heads of a value [a, b, heads * dims] as their reader wants them."""
    shape = list(heads.value.shape)
    shape[heads.dims_axis] = dims
    name = names.free(f"{heads.value.name}.heads")
    if heads.view:
        view = (*heads.view[:-1], dims if heads.view[-1] > 0 else -1)
        apart = gs.Variable(name, value.dtype, tuple(shape[i] for i in np.argsort(heads.order)))
        sizes = gs.Constant(names.free(f"{name}.shape"), np.array(view, np.int64))
        made.append(gs.Node("Reshape", name, {}, [value, sizes], [apart]))
        value = apart
    if heads.order == tuple(range(len(heads.order))):
        return value
    name = names.free(f"{heads.value.name}.ordered")
    ordered = gs.Variable(name, value.dtype, tuple(shape))
    made.append(gs.Node("Transpose", name, {"perm": list(heads.order)}, [value], [ordered]))
    return ordered


def _dims_left(block: Attention, heads: Heads, dims: int) -> int:
    """Dimensions of some heads of the block once queries and keys have so many."""
    return heads.dims if heads is block.values else dims


# -- the action ------------------------------------------------------------------------------------


def _dims(reader: Reader) -> int:
    dims: Any = reader.value
    if isinstance(dims, bool) or not isinstance(dims, int) or dims < 1:
        raise ModelError(f"{reader.document}: dims must be a whole number from 1")
    return dims


@dataclass(frozen=True)
class NarrowAttentionAction(OneModel):
    """The queries and keys behind the attention map `value` keep `dims` dimensions per head."""

    kind: ClassVar[str] = "narrow-attention"
    takes_channels: ClassVar[bool] = True
    read: ClassVar[Reads] = {"dims": _dims}

    value: str
    dims: int

    def __str__(self) -> str:
        count = f"{self.dims} dimension{'s' if self.dims > 1 else ''}"
        return f"{self.model} keeps {count} of queries and keys behind {own_name(self.value)}"

    def effect(self, program: Program) -> Effect | str:
        """The projections and the product of queries and keys shrink."""
        if self.value not in program.values():
            return f"'{own_name(self.value)}' is gone"
        block = attention_behind(program, self.value)
        if isinstance(block, str):
            return block
        if self.dims >= block.queries.dims:
            return f"the heads of '{own_name(self.value)}' have {block.queries.dims} dimensions"
        shrunk: dict[str, dict[int, float]] = {}
        values = {self.value, block.logits.outputs[0].name}
        for operator, parts in block.operators:
            width = sum(heads.count * _dims_left(block, heads, self.dims) for heads in parts)
            left = width / operator.fan_out
            shrunk[operator.node.name] = {1: left}
            if operator.bias is not None:
                adds = operator.bias_node or operator.node
                index = next(i for i, t in enumerate(adds.inputs) if t is operator.bias)
                shrunk.setdefault(adds.name, {})[index] = left
            values |= {tensor.name for tensor in made_by(operator)}
        # Both of its operands are values: there is no weight to shrink, but work.
        shrunk[block.logits.name] = {0: self.dims / block.queries.dims}
        return Effect(frozenset(values), shrunk=shrunk, owns=frozenset({*values, *shrunk}))

    def covers(self, other: object) -> bool:
        """Whether it leaves the same map as few dimensions as the other."""
        if not isinstance(other, NarrowAttentionAction):
            return False
        same = (self.model, self.value) == (other.model, other.value)
        return same and self.dims <= other.dims

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The narrower projections."""
        return [NarrowAttention(self.model, self.value, self.dims, reference)]

    def disturbed(self, program: Program) -> Disturbed:
        """The logits."""
        block = attention_behind(program, self.value) if self.value in program.values() else ""
        return Disturbed(() if isinstance(block, str) else (block.logits.outputs[0].name,))


def find(evidence: Evidence, group: tuple[str, ...]) -> Sites:
    """Attention of a group's models with fewer dimensions, by what the logits lose."""
    program, bills, sites = evidence.program, evidence.bills, Sites()
    whole = bills.bill(())
    assert whole is not None
    owners = owners_of(program, group)
    for model in group:
        layers = _layers(program, model)
        sites.refused |= {value: why for value, why in layers.items() if isinstance(why, str)}
        forms = _forms_of(evidence.reference(model), model)
        untold = [value for value in layers if value not in forms and value not in sites.refused]
        sites.refused |= {value: f"'{own_name(value)}' is not finite" for value in untold}
        for value, form in forms.items():
            if owners[value] != model:
                continue  # found with the model that it was first met in
            for dims in _fewer(form.singular.shape[1]):
                action = NarrowAttentionAction(model, value, dims)
                lost = form.lost(dims)
                if lost > _MOST_LOST:
                    break  # fewer dimensions lose more
                bill = bills.bill((action,))
                if bill is None:
                    continue
                saved = whole - bill
                if max(saved.weights_nbytes, saved.macs) > 0:
                    told = {"logits": 1 - lost}
                    sites.found.append(Site(action, saved, lost, told, look=(model, value)))
    return sites


def _fewer(dims: int) -> list[int]:
    """Dimensions per head that may be left of so many, most first."""
    return sorted({max(1, int(dims * share)) for share in _LEFT} - {dims}, reverse=True)
