"""Trials: a combination of actions as it was tried, with what it did to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..actions.action import Action
from ..actions.bill import Bill
from ..execution.fidelity import TOP1
from ..execution.outputs import OutputComparison
from ..graph.program import Program
from .damage import Output, errors_of, spread, unexplained, worst
from .limits import bill_of

# The expected loss of class scores rests on the few frames that change sides; a part of the
# scores' lost variance tells apart two trials that leave the same frames where they were.
_FINE = 0.02
# Biases that folds move about are not on the bill; what is over it by more than this share was in
# vain.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Trial:
    """A program after some actions, and its outputs beside the originals'.

    `bill` is what the actions were billed (None: they cannot stand together), `outputs` those that
    were compared; `fitted` is None where only what the trial did is remembered. The damage to the
    outputs is told in four ways: `loss`, `worst`, `error`, `spread`.
    """

    actions: tuple[Action, ...]
    fitted: Program | None
    bill: Bill | None
    outputs: tuple[OutputComparison, ...]

    @property
    def program(self) -> Program:
        """The program as it was fitted."""
        assert self.fitted is not None
        return self.fitted

    def remembered(self) -> Trial:
        """The trial without its program, which is as large as the models."""
        return replace(self, fitted=None)

    @property
    def met(self) -> bool:
        """Whether every output keeps its floor."""
        return all(output.met for output in self.outputs)

    @property
    def least(self) -> float:
        """The lowest fidelity of an output, 1 where none was compared."""
        return min((output.value for output in self.outputs), default=1.0)

    @property
    def loss(self) -> float:
        """The expected loss of all outputs together: what swaps are compared by."""
        damage = 0.0
        for output in self.outputs:
            damage += max(0.0, output.loss)
            if output.metric == TOP1:
                damage += _FINE * max(0.0, 1.0 - output.explained)
        return damage

    @property
    def worst(self) -> float:
        """The damage to the output that suffers most: what combinations are compared by."""
        return worst(self.outputs)

    @property
    def error(self) -> float:
        """The mean unexplained share of the outputs' variance, 0 for equal outputs.

        Finer than agreement, which moves in steps of one frame.
        """
        errors = [unexplained(output) for output in self.outputs]
        return float(np.mean(errors)) if errors else 0.0

    @property
    def errors(self) -> Mapping[Output, float]:
        """The unexplained variance of each output."""
        return errors_of(self.outputs)

    @property
    def spread(self) -> float:
        """The root of the mean square of the errors, over all outputs of the program."""
        return spread(self.errors, outputs_of(self.program))

    @cached_property
    def as_promised(self) -> bool:
        """Whether the program costs what its actions were billed: a fold may have been in vain."""
        return self.bill is not None and costs_as_billed(self.program, self.bill)


def costs_as_billed(program: Program, bill: Bill) -> bool:
    """Whether a program costs what was billed, but for biases that fits make anew."""
    more = bill_of(program) - bill
    return (
        more.weights_nbytes <= _TOLERANCE * bill.weights_nbytes
        and more.macs <= _TOLERANCE * bill.macs
    )


def outputs_of(program: Program) -> int:
    """How many outputs the models of a program have together."""
    return sum(len(model.outputs) for model in program.models.values())
