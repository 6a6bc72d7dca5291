"""What an action is: one inexact rewrite as a value, and what it tells of itself.

Every kind is a frozen dataclass in a file of its own, whose fields are its JSON in a plan. Nothing
outside this folder asks of which kind an action is: what it does is asked for (`effect`), when it
is done (`stage`), and by which passes (`rewrites`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, ClassVar, Protocol, Self, cast

import onnx_graphsurgeon as gs

from ...passes.base import Pass
from ...runtime.json_reader import Reader
from ..errors import ModelError
from ..fitting.reference import Reference
from ..graph.program import Program, own_name


class Stage(IntEnum):
    """When an action is carried out, in this order; each stage ends in a refit."""

    REGIONS = 1  # regions of a model go; one refit of what is around all gaps
    SHARING = 2  # a model takes from another; a refit after each
    FOLDS = 3  # what is left is folded; one refit of all that is downstream
    WIDTHS = 4  # nothing to rewrite: the refit of the folds, or of the regions, leaves fewer units
    PRECISION = 5  # what is left is stored in fewer bits: one walk that fits and rounds
    ARITHMETIC = 6  # values are rounded, too: nothing is fitted behind


@dataclass(frozen=True)
class Swap:
    """What reads `value` reads `sources` instead (program value names; none: a constant).

    `kernel` 0: as they are; 1 or 3: through an adapter with that window, which stands where the
    value is before its activation.
    """

    value: str
    sources: tuple[str, ...]
    kernel: int = 0


@dataclass(frozen=True)
class Merging:
    """Two linear operators that become one once the activation between them is affine.

    `nodes` are the operators with their biases and the activation; `inner` the values between.
    `nbytes_saved` and `macs_saved` (per frame) compare the one with the two.
    """

    nodes: tuple[gs.Node, ...]
    inner: frozenset[str]
    source: str
    result: str
    nbytes_saved: int
    macs_saved: int


@dataclass(frozen=True)
class Effect:
    """What an action changes: priced, and held against others, alike for all kinds.

    `values` are those it makes anew, beside what it swaps: everything downstream of them feels it.
    Where it `claims` its swaps, no other action may make one of the same value; else its swap gives
    way. Nodes in `shrunk` keep a share of their multiply-accumulates, and of the weight at each
    input index. `merging` counts where all of its nodes are there. Nodes in `tied` have one weight.
    Of the weight that a node in `stored` reads at an index that share of its bytes is stored.
    `owns` is what no other effect may own or touch; what `chooses` which channels go may stand
    beside others that name some.
    """

    values: frozenset[str] = frozenset()
    swaps: tuple[Swap, ...] = ()
    claims: bool = False
    shrunk: Mapping[str, Mapping[int, float]] = field(default_factory=dict[str, dict[int, float]])
    merging: Merging | None = None
    tied: tuple[str, ...] = ()
    stored: Mapping[str, Mapping[int, float]] = field(default_factory=dict[str, dict[int, float]])
    chooses: bool = False
    owns: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()

    @property
    def left(self) -> float:
        """The share of the channels that is left."""
        return min((min(shares.values()) for shares in self.shrunk.values()), default=1.0)


@dataclass(frozen=True)
class Disturbed:
    """Where the refit of an action's stage starts.

    All that depends on `values` is fitted again, and what makes `made` too; `widths` are hidden
    layers, by what is read from them, and the units that are to be left; `stored` are operators by
    node name, and the bits of a number of their weight.
    """

    values: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    widths: tuple[tuple[str, int], ...] = ()
    stored: tuple[tuple[str, int], ...] = ()


Reads = Mapping[str, Callable[[Reader], Any]]
"""How the fields of a kind are read from a plan, where they are not just names."""


class Action(Protocol):
    """One inexact rewrite of a plan; frozen, its fields are its JSON.

    `kind` names it in plans and options; `counted` is what one of it is called, and several.
    `takes_channels` says that its effect shrinks operators, so that another may outdo it.
    """

    kind: ClassVar[str]
    stage: ClassVar[Stage]
    counted: ClassVar[tuple[str, str]]
    takes_channels: ClassVar[bool]

    @property
    def models(self) -> tuple[str, ...]:
        """The models it takes from, and last the one that it rewrites."""
        ...

    @property
    def place(self) -> str:
        """Where it is, in the names of the model's file: 'a: relu_3 .. relu_5'."""
        ...

    @property
    def series(self) -> str:
        """What it has in common with others that a table may tell in one line; '' is nothing."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types; values and nodes go by program names, 'model/value'."""
        ...

    def check(self, program: Program) -> None:
        """Refuse an action that names what the program does not have. Raises ModelError."""
        ...

    def effect(self, program: Program) -> Effect | str:
        """What it changes in the program it was planned on, or why it cannot be carried out."""
        ...

    def covers(self, other: Action) -> bool:
        """Whether it does all that `other` does: takes more channels or units, a longer run."""
        ...

    def takes_out(self, program: Program) -> frozenset[str]:
        """The values that are gone with it, whatever else reads them."""
        ...

    def rewrites(self, reference: Reference) -> list[Pass]:
        """The passes that carry it out, but for the refit of its stage.

        `reference` has the program that it was planned on, and the frames fits may see.
        """
        ...

    def disturbed(self, program: Program) -> Disturbed:
        """Where the refit starts; `program` is the one that it was planned on."""
        ...


class Readable(Action, Protocol):
    """A kind of action as a plan's reader knows it."""

    @classmethod
    def from_json(cls, entry: Reader) -> Action:
        """The action that `to_json` wrote. Raises ModelError that says where it is wrong."""
        ...


def check_models(models: Iterable[str], program: Program) -> None:
    """Refuse models that the program does not have. Raises ModelError."""
    for model in models:
        if model not in program.models:
            raise ModelError(
                f"the plan names model {model!r}, which was not given",
                "give the models the plan was made for, with the same --name",
            )


@dataclass(frozen=True)
class OneModel:
    """What the kinds that touch one model only have in common; most of them fold something.

    Fields are names of values, but for those in `read`, which reads them from a plan.
    """

    kind: ClassVar[str]
    stage: ClassVar[Stage] = Stage.FOLDS
    counted: ClassVar[tuple[str, str]] = ("fold", "folds")
    takes_channels: ClassVar[bool] = False
    read: ClassVar[Reads] = {}

    model: str

    @property
    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)

    @property
    def place(self) -> str:
        """The model and the value that is rewritten, which is the last of those it names."""
        value = str(getattr(self, self._names()[-1]))
        return f"{self.model}: {own_name(value)}"

    @property
    def series(self) -> str:
        """None: each has a line."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """The action as JSON types; values and nodes go by program names, 'model/value'."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {
            name: list(cast("tuple[Any, ...]", x)) if isinstance(x, tuple) else x
            for name, x in entries.items()
        }
        return {"kind": self.kind, **lists}

    @classmethod
    def from_json(cls, entry: Reader) -> Self:
        """The action that `to_json` wrote. Raises ModelError."""
        names = [field.name for field in fields(cls)]
        return cls(*(entry.get(name, cls.read.get(name, Reader.text)) for name in names))

    def check(self, program: Program) -> None:
        """Refuse a model, or names of values, that are not there. Raises ModelError."""
        check_models(self.models, program)
        values = [getattr(self, name) for name in self._names()]
        self.check_names("value", set(program.values()), values)

    def check_names(self, what: str, known: set[str], names: Iterable[str]) -> None:
        """Refuse names of values, or nodes, that are not among the known. Raises ModelError."""
        for name in names:
            if name not in known:
                raise ModelError(
                    f"the plan names {what} {name!r}, which is not in the program",
                    f"`repsimc inspect MODEL` lists the {what}s of a model",
                )

    def covers(self, other: object) -> bool:
        """Whether `other` is the same."""
        return self == other

    def takes_out(self, program: Program) -> frozenset[str]:
        """Nothing that others could want."""
        return frozenset()

    def _names(self) -> list[str]:
        """The fields that name a value."""
        return [field.name for field in fields(self)[1:] if field.name not in self.read]
