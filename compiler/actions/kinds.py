"""The kinds of actions there are, in the order in which their sites are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...runtime.json_reader import Reader
from ..errors import ModelError, UsageError
from . import (
    compute_in_eight_bits,
    fold_activation,
    freeze_branch,
    narrow_attention,
    narrow_layer,
    prune_channels,
    reuse_attention,
    share_prefix,
    store_in_few_bits,
    take_out_region,
    tie_weights,
)
from .action import Action, Readable, Stage
from .evidence import Evidence
from .site import Site, Sites, by_damage

# A site that is expected to lose more than this share of a value's variance is not worth measuring.
MOST_DAMAGE = 0.4


class Kind(NamedTuple):
    """A kind of action: how its sites are found, and which of the means of `--only` it is.

    `wishes` requests what `find` will ask of a group's frames, for one pass for all kinds. `free`
    says that sites may cost nothing and are looked for without a budget.
    """

    action: type[Readable]
    find: Callable[[Evidence, tuple[str, ...]], Sites]
    free: bool
    only: str
    wishes: Callable[[Evidence, tuple[str, ...]], None] = lambda evidence, group: None

    @property
    def name(self) -> str:
        """What plans, `--without` and `repsimc passes` call it."""
        return self.action.kind

    def request(self, evidence: Evidence, group: tuple[str, ...]) -> None:
        """Have the group's next pass look at what `sites` will ask for."""
        if not evidence.still.issuperset(group):
            self.wishes(evidence, group)

    def sites(self, evidence: Evidence, group: tuple[str, ...]) -> Sites:
        """The sites among the models of a group, but for models whose states did not move.

        What is the same on every frame only because a state was would be lost with the state.
        """
        still = [model for model in group if model in evidence.still]
        if len(still) == len(group):
            return Sites(refused=dict.fromkeys(group, STILL))
        found = self.find(evidence, group)
        return Sites(
            [site for site in found.found if not evidence.still & {*site.action.models}],
            [site for site in found.spare if not evidence.still & {*site.action.models}],
            found.refused | dict.fromkeys(still, STILL),
        )


# Why a model is only rewritten exactly.
STILL = "its states were the same in every frame; frames with states of their own would tell more"

KINDS: tuple[Kind, ...] = (
    Kind(share_prefix.SharePrefixAction, share_prefix.find, False, "share", share_prefix.request),
    Kind(
        take_out_region.CollapseAction,
        take_out_region.find,
        False,
        "depth",
        take_out_region.request,
    ),
    Kind(
        fold_activation.FoldActivationAction,
        fold_activation.find,
        True,
        "depth",
        fold_activation.request,
    ),
    Kind(
        prune_channels.PruneChannelsAction,
        prune_channels.find,
        True,
        "depth",
        prune_channels.request,
    ),
    Kind(
        freeze_branch.FreezeBranchAction, freeze_branch.find, True, "depth", freeze_branch.request
    ),
    Kind(
        reuse_attention.ReuseAttentionAction,
        reuse_attention.find,
        True,
        "depth",
        reuse_attention.request,
    ),
    Kind(tie_weights.TieWeightsAction, tie_weights.find, False, "depth", tie_weights.request),
    Kind(narrow_layer.NarrowLayerAction, narrow_layer.find, False, "depth", narrow_layer.request),
    Kind(narrow_attention.NarrowAttentionAction, narrow_attention.find, False, "depth"),
    Kind(
        store_in_few_bits.StoreInFewBitsAction,
        store_in_few_bits.find,
        False,
        "precision",
        store_in_few_bits.request,
    ),
    Kind(
        compute_in_eight_bits.ComputeInEightBitsAction,
        compute_in_eight_bits.find,
        False,
        "precision",
    ),
)


def chosen(only: str | None = None, without: Sequence[str] = ()) -> tuple[Kind, ...]:
    """The kinds that are left by `--only` and `--without`. Raises UsageError for unknown names."""
    means = list(dict.fromkeys(kind.only for kind in KINDS))
    if only is not None and only not in means:
        raise UsageError(f"--only '{only}' is no means", f"there are {', '.join(means)}")
    names = [kind.name for kind in KINDS]
    for name in without:
        if name in means:
            others = " or ".join(f"--only {mean}" for mean in means if mean != name)
            raise UsageError(
                f"--without '{name}' names a means, not a kind of rewrite",
                f"--only {name} takes it alone, {others} leaves it out",
            )
        if name not in names:
            raise UsageError(
                f"--without '{name}' is no kind of rewrite", f"there are {', '.join(names)}"
            )
    return tuple(kind for kind in KINDS if only in (None, kind.only) and kind.name not in without)


def action_from_json(entry: Reader) -> Action:
    """The action of a plan's entry. Raises ModelError that says where it is wrong."""
    name = entry.get("kind", Reader.anything)
    for kind in KINDS:
        if kind.name == name:
            return kind.action.from_json(entry)
    raise ModelError(f"{entry.document} is of unknown kind {name!r}")


def sharing(kinds: Sequence[Kind]) -> list[Kind]:
    """Of the kinds those by which one model takes from another."""
    return [kind for kind in kinds if kind.action.stage is Stage.SHARING]


def regions(kinds: Sequence[Kind]) -> list[Kind]:
    """Of the kinds those that take whole regions out of a model."""
    return [kind for kind in kinds if kind.action.stage is Stage.REGIONS]


def free_sites(evidence: Evidence, kinds: Sequence[Kind]) -> list[Site]:
    """Sites of the kinds that may be free, group by group, by expected damage."""
    found: list[Site] = []
    for group in evidence.groups:
        mine = [site for kind in kinds if kind.free for site in kind.sites(evidence, group).found]
        found += sorted(filter(_promising, mine), key=by_damage)
    return found


def _promising(site: Site) -> bool:
    return site.damage <= MOST_DAMAGE and max(site.saved.weights_nbytes, site.saved.macs) > 0
