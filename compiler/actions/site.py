"""Sites: possible actions of any kind, with what each would save and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..graph.program import Program
from .action import Action
from .bill import Bill

# Channels and units are left in such multiples where there were some: see in_multiples.
MULTIPLE = 8


@dataclass(frozen=True, eq=False)  # looked up by identity thousands of times in a search
class Site:
    """A possible action, what it saves alone after the exact passes, and the damage expected of it.

    `damage` is the share of the variance of what it rewrites that is expected to be lost, or the
    loss that a probe predicted (`probed`). `evidence` are the figures that it rests on, by name.
    `nodes` go with it: two sites that share some do not go one after another. Of sites with one
    `look` a measurement of the first tells the others. `alternatives` are other ways to replace the
    same values.
    """

    action: Action
    saved: Bill
    damage: float
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])
    nodes: tuple[str, ...] = ()
    look: object = None
    probed: bool = False
    alternatives: tuple[Site, ...] = ()

    @property
    def receiver(self) -> str:
        """The model that the action rewrites."""
        return self.action.models[-1]


@dataclass
class Sites:
    """What a kind found: sites worth trying, spare ones, and why there are no others.

    `refused` goes by model, or by the value where an action could have been.
    """

    found: list[Site] = field(default_factory=list[Site])
    spare: list[Site] = field(default_factory=list[Site])
    refused: dict[str, str] = field(default_factory=dict[str, str])


def owners_of(program: Program, models: Sequence[str] = ()) -> dict[str, str]:
    """The first of the models (default: all) that needs each value."""
    owners: dict[str, str] = {}
    for model in models or program.models:
        for node in program.nodes_of(model):
            for value in node.outputs:
                owners.setdefault(value.name, model)
    return owners


def by_damage(site: Site) -> tuple[float, int, int, str]:
    """The order in which sites are tried: least damage first, then most saved."""
    saved = site.saved
    return site.damage, -saved.weights_nbytes, -saved.macs, str(site.action)


def values_made(program: Program, nodes: Sequence[str]) -> frozenset[str]:
    """What some nodes of the program make."""
    return frozenset(tensor.name for name in nodes for tensor in program.node(name).outputs)
