"""Actions that fold, prune, freeze, tie and reuse inside one model, as values for a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

from ..errors import ModelError
from ..graph.program import Program, own_name
from .entries import text


@dataclass(frozen=True)
class OneModel:
    """An action that touches one model only. `kind` names it in a plan."""

    kind: ClassVar[str]

    model: str

    @property
    def donor(self) -> str:
        """The model that gives, which is the one that takes."""
        return self.model

    @property
    def receiver(self) -> str:
        """The model that is rewritten."""
        return self.model

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types; values and nodes go by program names, 'model/value'."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {
            name: list(cast("tuple[Any, ...]", x)) if isinstance(x, tuple) else x
            for name, x in entries.items()
        }
        return {"kind": self.kind, **lists}


@dataclass(frozen=True)
class _WithoutAdapter(OneModel):
    """An action by which no value takes another's place."""

    @property
    def links(self) -> tuple[()]:
        """None."""
        return ()

    @property
    def kernel(self) -> int:
        """0: there is no adapter."""
        return 0


@dataclass(frozen=True)
class FoldActivationAction(_WithoutAdapter):
    """An activation function becomes the affine map per channel that fits it best on the frames.

    `given` and `value` are what the function reads and makes.
    """

    kind: ClassVar[str] = "fold-activation"

    given: str
    value: str

    def __str__(self) -> str:
        return f"{self.model} folds the activation that makes {own_name(self.value)}"


@dataclass(frozen=True)
class PruneChannelsAction(_WithoutAdapter):
    """Channels of a value go, with what makes and reads them; their means go into biases."""

    kind: ClassVar[str] = "prune-channels"

    value: str
    channels: tuple[int, ...]

    def __str__(self) -> str:
        count = f"{len(self.channels)} channel{'s' if len(self.channels) > 1 else ''}"
        return f"{self.model} loses {count} of {own_name(self.value)}"


@dataclass(frozen=True)
class NarrowLayerAction(_WithoutAdapter):
    """A hidden layer keeps only so many units, chosen by what they contribute to what reads them.

    `value` is what the operator behind the layer reads. Which units stay is decided when the layer
    is fitted again, beside all else that the plan does.
    """

    kind: ClassVar[str] = "narrow-layer"

    value: str
    units: int

    def __str__(self) -> str:
        count = f"{self.units} unit{'s' if self.units > 1 else ''}"
        return f"{self.model} keeps {count} of {own_name(self.value)}"


@dataclass(frozen=True)
class FreezeBranchAction(_WithoutAdapter):
    """A value that is the same on every frame becomes a constant; what made it goes."""

    kind: ClassVar[str] = "freeze-branch"

    value: str

    def __str__(self) -> str:
        return f"{self.model} takes {own_name(self.value)} for a constant"


@dataclass(frozen=True)
class TieWeightsAction(_WithoutAdapter):
    """Operators of one shape share one weight, fitted to all of them; biases stay their own."""

    kind: ClassVar[str] = "tie-weights"

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model} has one weight for {', '.join(map(own_name, self.nodes))}"


@dataclass(frozen=True)
class ReuseAttentionAction(_WithoutAdapter):
    """The attention map `earlier` serves a later layer too, in the place of its own `value`."""

    kind: ClassVar[str] = "reuse-attention"

    earlier: str
    value: str

    def __str__(self) -> str:
        return f"{self.model} uses {own_name(self.earlier)} for {own_name(self.value)}"


FoldAction = (
    FoldActivationAction
    | PruneChannelsAction
    | NarrowLayerAction
    | FreezeBranchAction
    | TieWeightsAction
    | ReuseAttentionAction
)


def fold_action_from_json(entry: Mapping[str, Any], where: str) -> FoldAction | None:
    """The action `to_json` wrote; None when `entry` is of another kind. Raises ModelError."""
    reader = _READERS.get(str(entry.get("kind")))
    return None if reader is None else reader(entry, where)


def check_fold_action(action: FoldAction, program: Program) -> None:
    """Refuse an action that names what the program does not have. Raises ModelError."""
    if action.model not in program.models:
        raise ModelError(
            f"the plan names model {action.model!r}, which was not given",
            "give the models the plan was made for, with the same --name",
        )
    if isinstance(action, TieWeightsAction):
        known = {node.name for node in program.graph.nodes}
        wanted, kind = action.nodes, "node"
    else:
        known = set(program.values())
        wanted, kind = values_of(action), "value"
    for name in wanted:
        if name not in known:
            raise ModelError(
                f"the plan names {kind} {name!r}, which is not in the program",
                f"`repsimc inspect MODEL` lists the {kind}s of a model",
            )
    if isinstance(action, PruneChannelsAction):
        shape = program.values()[action.value].shape
        most = max((size for size in shape or () if isinstance(size, int)), default=0)
        if any(channel >= most for channel in action.channels):
            raise ModelError(
                f"the plan prunes channel {max(action.channels)} of {own_name(action.value)!r}, "
                f"which has shape {list(shape or ())}",
                "channels count from 0; let repsimc plan by leaving out --plan",
            )


def includes(one: FoldAction, other: FoldAction) -> bool:
    """Whether `one` does all that `other` does: takes more channels or units, a longer run."""
    if isinstance(one, PruneChannelsAction) and isinstance(other, PruneChannelsAction):
        same = (one.model, one.value) == (other.model, other.value)
        return same and set(one.channels) >= set(other.channels)
    if isinstance(one, NarrowLayerAction) and isinstance(other, NarrowLayerAction):
        same = (one.model, one.value) == (other.model, other.value)
        return same and one.units <= other.units
    if isinstance(one, TieWeightsAction) and isinstance(other, TieWeightsAction):
        return set(one.nodes) >= set(other.nodes)
    return one == other


def widest(actions: Iterable[FoldAction]) -> list[FoldAction]:
    """The actions in order, without those that another one includes."""
    unique = list(dict.fromkeys(actions))
    return [
        one
        for one in unique
        if not any(includes(other, one) for other in unique if other is not one)
    ]


def values_of(action: FoldAction) -> tuple[str, ...]:
    """The values that an action names."""
    if isinstance(action, FoldActivationAction):
        return (action.given, action.value)
    if isinstance(action, ReuseAttentionAction):
        return (action.earlier, action.value)
    return () if isinstance(action, TieWeightsAction) else (action.value,)


def _list(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = entry.get(key)
    if not isinstance(found, list) or not found:
        raise ModelError(f"{where}: {key} is no list, or an empty one")
    return cast("list[Any]", found)


def _fold(entry: Mapping[str, Any], where: str) -> FoldAction:
    given, value = text(entry, "given", where), text(entry, "value", where)
    return FoldActivationAction(text(entry, "model", where), given, value)


def _prune(entry: Mapping[str, Any], where: str) -> FoldAction:
    channels = _list(entry, "channels", where)
    if any(isinstance(c, bool) or not isinstance(c, int) or c < 0 for c in channels):
        raise ModelError(f"{where}: channels must be whole numbers from 0")
    unique = tuple(sorted({int(channel) for channel in channels}))
    return PruneChannelsAction(text(entry, "model", where), text(entry, "value", where), unique)


def _narrow(entry: Mapping[str, Any], where: str) -> FoldAction:
    units = entry.get("units")
    if isinstance(units, bool) or not isinstance(units, int) or units < 1:
        raise ModelError(f"{where}: units must be a whole number from 1")
    return NarrowLayerAction(text(entry, "model", where), text(entry, "value", where), units)


def _freeze(entry: Mapping[str, Any], where: str) -> FoldAction:
    return FreezeBranchAction(text(entry, "model", where), text(entry, "value", where))


def _tie(entry: Mapping[str, Any], where: str) -> FoldAction:
    nodes = _list(entry, "nodes", where)
    if len(set(map(str, nodes))) < 2 or not all(isinstance(n, str) and n for n in nodes):
        raise ModelError(f"{where}: nodes must be two names or more")
    return TieWeightsAction(text(entry, "model", where), tuple(str(node) for node in nodes))


def _reuse(entry: Mapping[str, Any], where: str) -> FoldAction:
    earlier, value = text(entry, "earlier", where), text(entry, "value", where)
    return ReuseAttentionAction(text(entry, "model", where), earlier, value)


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], FoldAction]] = {
    FoldActivationAction.kind: _fold,
    PruneChannelsAction.kind: _prune,
    NarrowLayerAction.kind: _narrow,
    FreezeBranchAction.kind: _freeze,
    TieWeightsAction.kind: _tie,
    ReuseAttentionAction.kind: _reuse,
}
