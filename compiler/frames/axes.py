"""Which axis of each input counts frames, and which inputs are states that a model hands on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import UsageError
from .sets import InputRef, InputSpec

# What exporters and people call the axis of frames.
_BATCH = re.compile(r"batch.*|.*batch_?size", re.IGNORECASE)
_FRAMES = re.compile(r"batch.*|.*batch_?size|bs|n|b", re.IGNORECASE)
# Letters, a capital alone or digits: 'stateN' is state, N; 'h0' is h, 0.
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
# How names of a state differ before and after a step; those in the second place are weak: image
# to image models have them too.
_BEFORE = frozenset({"past", "prev", "previous", "old", "last", "init", "initial", "i", "0"})
_AFTER = frozenset({"present", "next", "new", "updated", "n", "o", "final"})
_WEAK = frozenset({"in", "out", "input", "inputs", "output", "outputs", "cur", "current"})
_STATES = frozenset(
    {"state", "states", "hidden", "cell", "h", "c", "cache", "caches", "mem", "memory", "rnn"}
    | {"lstm", "gru", "carry", "buffer", "buf", "kv", "past"}
)


def interface(inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs of one model, each knowing its axis of frames and whether it is a state.

    The axis is the first, unless the model's own symbols say otherwise: that which the inputs
    share, one called batch or N before others. A scalar has none, and neither has an input of a
    fixed first axis beside others whose number of frames is free.
    """
    states = _states(inputs, outputs)
    shaped = [spec for spec in inputs if spec.shape]
    symbol = _frames_symbol(shaped)
    free = any(spec.batch is None for spec in shaped)
    found: list[InputSpec] = []
    for spec in inputs:
        axis: int | None = 0 if spec.shape else None
        if symbol is not None and spec.shape.count(symbol) == 1:
            axis = spec.shape.index(symbol)
        elif free and (spec.batch or 1) > 1:
            axis = None
        found.append(replace(spec, frame_axis=axis, state=spec.name in states))
    return tuple(found)


def _frames_symbol(inputs: Sequence[InputSpec]) -> str | None:
    """The symbol of the axis that counts frames; None where it is the first axis of each."""
    first = {spec.shape[0] for spec in inputs}
    symbols = [dim for spec in inputs for dim in spec.shape if isinstance(dim, str) and dim]
    shared = [
        symbol
        for symbol in dict.fromkeys(symbols)
        if symbol in first and sum(symbol in spec.shape for spec in inputs) > 1
    ]
    # On one input alone N may be a number of points.
    called = [s for s in shared if _FRAMES.fullmatch(s)] or shared
    return next(iter([*called, *(s for s in symbols if _BATCH.fullmatch(s))]), None)


def _states(inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> set[str]:
    """The inputs that an output of the model carries on: state and stateN, h0 and hn, past."""
    found = {spec.name for spec in inputs if any(_carried_on(spec, output) for output in outputs)}
    # A model that is given nothing else has no state: it maps what it is given.
    return found if len(found) < len([spec for spec in inputs if spec.shape]) else set()


def _carried_on(spec: InputSpec, output: InputSpec) -> bool:
    if spec.dtype != output.dtype or not spec.shape or len(spec.shape) != len(output.shape):
        return False
    for mine, theirs in zip(spec.shape, output.shape, strict=True):
        if isinstance(mine, int) and isinstance(theirs, int) and mine != theirs:
            return False
    before, after = _words(spec.name), _words(output.name)
    kept = _stem(before, _BEFORE), _stem(after, _AFTER)
    names_state = bool(_STATES.intersection(before))
    # Longer names say the same at their end: past_key_values.0.key and present.0.key.
    longer, shorter = sorted(kept, key=len, reverse=True)
    same = kept[0] == kept[1] or (bool(shorter) and longer[-len(shorter) :] == shorter)
    if not same:
        return False
    steps = bool(_BEFORE.intersection(before)) and bool(_AFTER.intersection(after))
    return before != after and (steps or names_state)


def _words(name: str) -> list[str]:
    words: list[str] = []
    for word in (word.lower() for word in _WORDS.findall(name)):
        # 'hn', 'cn': the letter and what torch's documentation calls the last step.
        words += list(word) if re.fullmatch(r"[hcr][nio]", word) else [word]
    return words


def _stem(words: Sequence[str], step: frozenset[str]) -> list[str]:
    """The words without those that say before or after; a number is a place unless it ends it."""
    return [
        word
        for index, word in enumerate(words)
        if word not in _WEAK
        and not (word in step and (not word.isdigit() or index == len(words) - 1))
    ]


def with_axes(
    specs: Mapping[str, Sequence[InputSpec]], said: Sequence[str]
) -> dict[str, tuple[InputSpec, ...]]:
    """The inputs by model, with the axes of frames that users named: 'model.input=1' or '=none'.

    Raises UsageError for an unknown input, and for an axis that it has not.
    """
    found = {model: list(given) for model, given in specs.items()}
    for text in said:
        name, equals, word = text.rpartition("=")
        refs = inputs_called(name, specs) if equals else []
        if not refs:
            raise _unknown(f"--frame-axis {text}", name or text, specs, "--frame-axis INPUT=1")
        for model, own in refs:
            place = next(i for i, spec in enumerate(found[model]) if spec.name == own)
            spec = found[model][place]
            axis = None if word.lower() == "none" else int(word) if word.isdecimal() else -1
            if axis is not None and not 0 <= axis < len(spec.shape):
                raise UsageError(
                    f"--frame-axis {text}: input '{own}' of model '{model}' ({spec}) has no axis "
                    f"{word}",
                    f"count axes from 0, up to {len(spec.shape) - 1}, or say none where a run "
                    "takes one frame without an axis of its own",
                )
            found[model][place] = replace(spec, frame_axis=axis)
    return {model: tuple(given) for model, given in found.items()}


def inputs_called(name: str, specs: Mapping[str, Sequence[InputSpec]]) -> list[InputRef]:
    """The inputs that a user means by 'model.input' (or 'model/input'), or by 'input' alone."""
    refs = [(model, spec.name) for model, given in specs.items() for spec in given]
    full = [ref for ref in refs if name in (".".join(ref), "/".join(ref))]
    return full or [ref for ref in refs if ref[1] == name]


def one_input(name: str, specs: Mapping[str, Sequence[InputSpec]], option: str) -> InputRef:
    """The one input that a user means by 'model.input'. Raises UsageError, naming the option."""
    refs = inputs_called(name, specs)
    if not refs:
        raise _unknown(option, name, specs, "--tie MODEL.INPUT=MODEL.INPUT")
    if len(refs) > 1:
        raise UsageError(
            f"{option}: '{name}' is an input of several models",
            f"say which: {', '.join('.'.join(ref) for ref in refs)}",
        )
    return refs[0]


def _unknown(
    option: str, name: str, specs: Mapping[str, Sequence[InputSpec]], such_as: str
) -> UsageError:
    known = ", ".join(f"{model}.{spec.name}" for model, given in specs.items() for spec in given)
    return UsageError(
        f"{option}: no input is called '{name}'", f"say {such_as}; the inputs are {known}"
    )
