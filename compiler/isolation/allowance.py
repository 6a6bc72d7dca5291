"""How much memory and time may be spent on opening one model, in relation to its own size."""

from __future__ import annotations

from dataclasses import dataclass

# A model of a hundred bytes may ask for any amount. Opening an honest one takes some memory for
# itself (ONNX Runtime's arenas, constants that a graph computes), and a few copies of its bytes.
MEMORY_NBYTES = 512 << 20
MEMORY_PER_BYTE = 8
# Frames of a large model are run one at a time first: a U-Net's values are some 20 times a frame.
MEMORY_PER_FED_BYTE = 64
# Shape inference, checker and sessions of a chain of 20 000 nodes (0.6 MB) take 1.1 s.
SECONDS = 3.0
SECONDS_PER_BYTE = 4e-6


@dataclass(frozen=True)
class ParseLimits:
    """What a user allows for opening one model: bytes of memory and seconds of processor time.

    None means the default, which grows with the model's size.
    """

    memory_nbytes: int | None = None
    seconds: float | None = None


class ModelAllowance:
    """What may be spent on one model; `seconds` is what is left of it after the steps so far.

    `where` names the model in errors, `nbytes` is its size, `fed` that of what it runs on.
    """

    def __init__(
        self, where: str, nbytes: int, limits: ParseLimits | None = None, fed: int = 0
    ) -> None:
        limits = limits or ParseLimits()
        memory = MEMORY_NBYTES + MEMORY_PER_BYTE * nbytes + MEMORY_PER_FED_BYTE * fed
        self.where = where
        self.memory_nbytes = limits.memory_nbytes or memory
        self.whole_seconds = limits.seconds or SECONDS + SECONDS_PER_BYTE * (nbytes + fed)
        self.seconds = self.whole_seconds

    def spend(self, seconds: float) -> None:
        """Take the time of a step off what is left."""
        self.seconds = max(0.0, self.seconds - seconds)
