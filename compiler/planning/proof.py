"""Whether the frames can prove the fidelity floors at all, asked before anything is searched."""

from __future__ import annotations

import warnings

from ..case import Case
from ..errors import FidelityError
from ..execution.confidence import trials_needed
from ..execution.fidelity import TOP1, metric_of


def tell_unproved(case: Case) -> None:
    """Warn of floors of agreement that no result on the held-out frames would prove.

    Raises FidelityError where floors are held against what is proved.
    """
    told = unproved(case)
    if told is None:
        return
    what, remedy = told
    if case.options.strict:
        raise FidelityError(what, f"{remedy}, lower --min-fidelity, or leave out --strict")
    warnings.warn(f"{what}; {remedy}", stacklevel=2)


def unproved(case: Case) -> tuple[str, str] | None:
    """The floor that is farthest from what the held-out frames can prove, and what would help.

    None where all can be proved. How many frames an explained variance takes shows only in the
    result.
    """
    frames, options = case.frames, case.options
    if frames is None:
        return None
    short: list[tuple[float, str]] = []
    values = case.original.values()
    for name, model in case.original.models.items():
        held_out = len(frames.scenes_held_out(name))
        for own, value in model.outputs.items():
            if metric_of(values[value], options.metric(name, own)) != TOP1:
                continue
            floor = options.floor(name, own)
            needed = trials_needed(floor, options.confidence)
            if needed is None:
                text = f"no number of frames proves the floor of {floor:g} for {name}/{own}"
                short.append((float("inf"), text))
            elif needed > held_out:
                short.append(
                    (
                        needed / max(held_out, 1),
                        f"{held_out} held-out frames can't prove the floor of {floor:g} for "
                        f"{name}/{own} at {100 * options.confidence:.8g} % confidence: that takes "
                        f"{needed} without a miss",
                    )
                )
    if not short:
        return None
    ratio, text = max(short)
    if ratio == float("inf"):
        return text, "set a floor below 1"
    total = len(frames.rows(next(iter(case.original.models))))
    return text, f"give about {round_up(ratio * total)} frames"


def round_up(count: float) -> int:
    """The count, or a little more, in two digits."""
    step = 10 ** max(len(str(int(count))) - 2, 0)
    return int(-(-count // step) * step)
