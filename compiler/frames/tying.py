"""Which inputs of different models are one: those that one frame feeds, or that the user ties."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ..errors import UsageError
from .axes import one_input
from .calibration import Frames
from .images import ImageSource
from .sets import InputRef, InputSpec
from .sources import FrameSource, held

SAME_FRAMES, SAME_NAME, ASKED_FOR = "the same frames", "the same name", "--tie"
Specs = Mapping[str, Sequence[InputSpec]]


@dataclass(frozen=True)
class Tie:
    """Inputs of different models that become one, and why."""

    inputs: tuple[InputRef, ...]
    why: str

    def __str__(self) -> str:
        return f"{' = '.join('.'.join(ref) for ref in self.inputs)} ({self.why})"


@dataclass(frozen=True)
class Tying:
    """The inputs that become one, and notes on those that might have, and do not."""

    ties: tuple[Tie, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> list[list[InputRef]]:
        """The inputs of each tie."""
        return [list(tie.inputs) for tie in self.ties]

    def joined(self, frames: Frames) -> Frames:
        """The frames for models whose inputs are one: a size that one of them fixes is all's."""
        fixed: dict[InputRef, dict[int, int]] = {}
        for tie in self.ties:
            specs = [_spec(frames.inputs, ref) for ref in tie.inputs]
            sizes = {
                axis: dim
                for spec in specs
                for axis, dim in enumerate(spec.shape)
                if isinstance(dim, int) and dim > 0
            }
            fixed |= dict.fromkeys(tie.inputs, sizes)
        return replace(
            frames,
            inputs={
                model: tuple(_of_size(spec, fixed.get((model, spec.name), {})) for spec in specs)
                for model, specs in frames.inputs.items()
            },
        )


def tied_groups(frames: Frames) -> list[list[InputRef]]:
    """Inputs of different models that are always fed the same array, and take the same sizes.

    Same stream, equal rows (by content, after preprocessing), the same sizes fixed and free: tied
    to a fixed size, a free one would be lost. Within a model two such inputs stay apart, and
    states always do: they go on differently.
    """
    groups: list[list[InputRef]] = []
    known = _by_ref(frames.inputs)
    for members in _fed_alike(frames):
        alike: dict[object, list[InputRef]] = {}
        for ref in members:
            alike.setdefault(_sizes(known[ref]), []).append(ref)
        groups += [group for group in alike.values() if len(group) > 1]
    return groups


def tying(
    specs: Specs, frames: Frames | None, asked: Sequence[str] = (), automatic: bool = True
) -> Tying:
    """The inputs of the models that become one.

    Those that the user `asked` for ('a.x=b.y'); and, if `automatic`, those that the same frames
    feed, or, without frames, those of one name, dtype and size where no size is free.

    Raises UsageError for a tie of inputs that are not there, that one array cannot feed, or that
    are given different frames.
    """
    ties = [Tie(tuple(group), ASKED_FOR) for group in _asked(specs, frames, asked)]
    taken = {ref for tie in ties for ref in tie.inputs}
    notes: list[str] = []
    if automatic:
        why = SAME_FRAMES if frames is not None else SAME_NAME
        found = tied_groups(frames) if frames is not None else _called_alike(specs)
        for group in found:
            left = tuple(ref for ref in group if ref not in taken)
            if len(left) > 1:
                ties.append(Tie(left, why))
        one = {ref: number for number, tie in enumerate(ties) for ref in tie.inputs}
        candidates = _fed_alike(frames) if frames is not None else _of_one_name(specs)
        notes = list(_left_apart(specs, candidates, one, frames is not None))
    return Tying(tuple(ties), tuple(notes))


def _fed_alike(frames: Frames) -> Iterator[list[InputRef]]:
    """Inputs that are always fed the same array, whatever batches they take."""
    for stream in frames.streams:
        alike: dict[object, list[InputRef]] = {}
        for model in stream:
            for spec in frames.inputs[model]:
                if spec.state:
                    continue
                source = frames.sources[model, spec.name]
                shapes = source.preprocessing if isinstance(source, ImageSource) else source.shapes
                kind = (spec.dtype.str, spec.frame_axis, shapes)
                alike.setdefault(kind, []).append((model, spec.name))
        for members in alike.values():
            yield from _equal(frames, members)


def _equal(frames: Frames, members: Sequence[InputRef]) -> list[list[InputRef]]:
    """`members` in groups of equal rows, at most one input per model in each."""
    identities = {ref: _identity(frames.sources[ref]) for ref in members}
    # Hashing the content is only needed where the same object does not answer it.
    by_content = len(set(identities.values())) > 1 and len({m for m, _ in members}) > 1
    known: dict[object, list[list[InputRef]]] = {}
    for ref in members:
        groups = known.setdefault(frames.sources[ref].digest if by_content else identities[ref], [])
        for group in groups:
            if all(model != ref[0] for model, _ in group):
                group.append(ref)
                break
        else:
            groups.append([ref])
    return [group for groups in known.values() for group in groups if len(group) > 1]


def _identity(source: FrameSource) -> object:
    """Equal for two sources that give equal rows because they are made from the same object."""
    recipe = source.preprocessing if isinstance(source, ImageSource) else None
    return (recipe, held(source))


def _of_one_name(specs: Specs) -> list[list[InputRef]]:
    """Inputs of different models that have one name and dtype, and shapes that may be one."""
    named: dict[str, list[tuple[InputSpec, list[InputRef]]]] = {}
    for model, given in specs.items():
        for spec in given:
            groups = named.setdefault(spec.name, [])
            for one, group in groups:
                if _why_not(one, spec) is None:
                    group.append((model, spec.name))
                    break
            else:
                groups.append((spec, [(model, spec.name)]))
    return [group for groups in named.values() for _, group in groups if len(group) > 1]


def _called_alike(specs: Specs) -> list[list[InputRef]]:
    """Inputs of one name, dtype, size and batch; none whose size is free, and no states."""
    found: list[list[InputRef]] = []
    known = _by_ref(specs)
    for group in _of_one_name(specs):
        alike: dict[object, list[InputRef]] = {}
        for ref in group:
            spec = known[ref]
            if not spec.state and all(isinstance(dim, int) and dim > 0 for dim in spec.frame):
                alike.setdefault((_sizes(spec), spec.frame_axis), []).append(ref)
        found += [members for members in alike.values() if len(members) > 1]
    return found


def _left_apart(
    specs: Specs, candidates: Iterable[list[InputRef]], one: Mapping[InputRef, int], fed: bool
) -> Iterator[str]:
    """Why inputs that are fed alike, or called alike, are not one."""
    known = _by_ref(specs)
    for group in candidates:
        # One of each that are tied already stands for them.
        first: dict[object, InputRef] = {}
        for ref in group:
            first.setdefault(one.get(ref, ref), ref)
        refs = list(first.values())
        if len(refs) < 2 or all(known[ref].state for ref in refs):
            continue
        names = " and ".join(".".join(ref) for ref in refs)
        how = f"--tie {'.'.join(refs[0])}={'.'.join(refs[1])}"
        free = [ref for ref in refs if any(not isinstance(d, int) for d in known[ref].frame)]
        if free and not fed:
            reason = "their sizes are free, and an equal name does not make them one"
            yield f"{names} stay apart: {reason}; give frames, or {how}"
            continue
        given = "the same frames feed them" if fed else "they have one name"
        kinds = " and ".join(dict.fromkeys(str(known[ref]) for ref in refs))
        possible = _why_not(known[refs[0]], known[refs[1]]) is None
        then = f"{how} makes them one, of the sizes that are fixed"
        yield (
            f"{names} stay apart, though {given}: they take {kinds}; "
            f"{then if possible else 'export the models for the same sizes'}"
        )


def _sizes(spec: InputSpec) -> tuple[object, ...]:
    """Which sizes are fixed, and which of the free ones are equal; by the shape alone."""
    return tuple(
        dim
        if isinstance(dim, int) and dim > 0
        else f"as axis {spec.shape.index(dim) if isinstance(dim, str) else axis}"
        for axis, dim in enumerate(spec.shape)
    )


def _asked(specs: Specs, frames: Frames | None, asked: Sequence[str]) -> list[list[InputRef]]:
    """The groups of inputs that the user ties, checked."""
    groups: list[list[InputRef]] = []
    for text in asked:
        pair = _pair(text, specs)
        _check(text, pair, specs, frames)
        touched = [group for group in groups if set(group) & set(pair)]
        merged = list(dict.fromkeys([*(ref for group in touched for ref in group), *pair]))
        groups = [group for group in groups if group not in touched] + [merged]
    for group in groups:
        for one, other in combinations(group, 2):
            _check("--tie", (one, other), specs, frames)
    return groups


def _pair(text: str, specs: Specs) -> tuple[InputRef, InputRef]:
    # A name may hold '=' itself: the one place where both sides are inputs is meant.
    parts = text.split("=")
    sides = [("=".join(parts[:k]), "=".join(parts[k:])) for k in range(1, len(parts))]
    if not sides or not all(sides[0]):
        raise UsageError(
            f"--tie {text} does not name two inputs", "say --tie MODEL.INPUT=MODEL.INPUT"
        )
    for left, right in sides[:-1]:
        try:
            return one_input(left, specs, ""), one_input(right, specs, "")
        except UsageError:
            continue
    left, right = sides[-1]
    option = f"--tie {text}"
    return one_input(left, specs, option), one_input(right, specs, option)


def _check(text: str, pair: tuple[InputRef, InputRef], specs: Specs, frames: Frames | None) -> None:
    (one, other), names = pair, " and ".join(".".join(ref) for ref in pair)
    option = text if text.startswith("--tie") else f"--tie {text}"
    if one[0] == other[0]:
        raise UsageError(
            f"{option}: {names} are inputs of one model", "tie inputs of different models"
        )
    reason = _why_not(_spec(specs, one), _spec(specs, other))
    if reason is not None:
        raise UsageError(
            f"{option}: one array cannot feed {names}: {reason}",
            "tie inputs of one dtype and shape, or leave it out",
        )
    if frames is None:
        return
    if not frames.aligned(one[0], other[0]):
        raise UsageError(
            f"{option}: {names} are given frames of their own",
            "give one set of frames for both, or --same-frames if row k is the same frame",
        )
    if frames.sources[one].digest != frames.sources[other].digest:
        raise UsageError(
            f"{option}: the frames of {names} differ, and one array is to feed both",
            "give both the same frames, prepared in the same way, or leave it out",
        )


def _why_not(one: InputSpec, other: InputSpec) -> str | None:
    if one.dtype != other.dtype:
        return f"{one.dtype} and {other.dtype}"
    if (
        len(one.shape) != len(other.shape)
        or one.frame_axis != other.frame_axis
        or any(
            isinstance(a, int) and isinstance(b, int) and a != b and min(a, b) > 0
            for a, b in zip(one.shape, other.shape, strict=True)
        )
    ):
        return f"{one} and {other}"
    return None


def _of_size(spec: InputSpec, fixed: Mapping[int, int]) -> InputSpec:
    shape = tuple(fixed.get(axis, dim) for axis, dim in enumerate(spec.shape))
    return replace(spec, shape=shape)


def _spec(specs: Specs, ref: InputRef) -> InputSpec:
    return next(spec for spec in specs[ref[0]] if spec.name == ref[1])


def _by_ref(specs: Specs) -> dict[InputRef, InputSpec]:
    return {(model, spec.name): spec for model, given in specs.items() for spec in given}
