"""Programs with sites of every kind, for tests of what chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx

from repsimc.compiler.actions.bill import Bills
from repsimc.compiler.actions.kinds import KINDS
from repsimc.compiler.actions.site import Site
from repsimc.compiler.graph.program import Program
from repsimc.compiler.planning.damage import Output
from repsimc.passes.pipeline import run_exact
from tests.nets.evidence import GivenEvidence
from tests.nets.foldable import (
    always_on,
    attention_net,
    gelu_mlp,
    quiet_channels,
    sometimes_dead,
    still_branch,
    twins,
)
from tests.nets.layers import weight_read_twice
from tests.nets.networks import ArrayFrames, branches, perturbed, pyramid, smooth_images
from tests.nets.residual import residual_net
from tests.programs import joined


@dataclass(frozen=True, eq=False)
class Given:
    """A program with its sites, by kind."""

    program: Program
    bills: Bills
    sites: tuple[Site, ...]

    @property
    def outputs(self) -> tuple[Output, ...]:
        return tuple((name, own) for name, m in self.program.models.items() for own in m.outputs)


def given(program: Program, frames: ArrayFrames) -> Given:
    """All sites that the kinds find among the program's models, the spare ones too."""
    evidence = GivenEvidence(program, frames, "auto")
    group = tuple(program.models)
    found: dict[object, Site] = {}
    for kind in KINDS:
        sites = kind.find(evidence, group)
        for site in (*sites.found, *sites.spare):
            for one in (site, *site.alternatives):
                found.setdefault(one.action, one)
    bills = Bills(program, cache(evidence.constant_nbytes))
    return Given(program, bills, tuple(found.values()))


def siblings(
    model: onnx.ModelProto, others: int = 1, scale: float = 0.05, **more: onnx.ModelProto
) -> Program:
    """The model as a, and others of its family, on the same frames, after the exact passes."""
    models = {"a": model}
    for index in range(others):
        models["bcd"[index]] = perturbed(model, scale, seed=index)
    models |= more
    program = joined([[(name, "x") for name in models]], **models)
    run_exact(program)
    return program


def _images(program: Program) -> ArrayFrames:
    return ArrayFrames({program.graph.inputs[0].name: smooth_images(96)})


def _tokens(program: Program) -> ArrayFrames:
    mixer = np.random.default_rng(0).normal(size=(4, 10))
    latent = np.random.default_rng(1).normal(size=(96, 6, 4))
    return ArrayFrames({program.graph.inputs[0].name: (latent @ mixer).astype(np.float32)})


def _heads() -> Program:
    """Two models with one trunk, and a third of their family: weights held once, nodes run once."""
    model = residual_net(3)
    head = [tensor.name for tensor in model.graph.initializer][-2:]
    return siblings(model, 0, b=perturbed(model, 0.3, only=head), c=perturbed(model, 0.05))


PROGRAMS: dict[str, tuple[Callable[[], Program], Callable[[Program], ArrayFrames]]] = {
    "residual": (lambda: siblings(residual_net(3, channels=16), 0), _images),
    "residual siblings": (lambda: siblings(residual_net(2, channels=8)), _images),
    "three residual siblings": (lambda: siblings(residual_net(2, channels=8), 2), _images),
    "one trunk": (_heads, _images),
    "pyramids": (lambda: siblings(pyramid(0), 1, c=pyramid(2)), _images),
    "cuts of two": (lambda: siblings(branches(0)), _images),
    "quiet channels": (lambda: siblings(quiet_channels()), _images),
    "dead channels": (lambda: siblings(sometimes_dead()), _images),
    "linear": (lambda: siblings(always_on()), _images),
    "gelu": (lambda: siblings(gelu_mlp(0.15)), _tokens),
    "attention": (lambda: siblings(attention_net()), _tokens),
    "four of attention": (lambda: siblings(attention_net(), 3), _tokens),
    "still": (lambda: siblings(still_branch()), _images),
    "twins": (lambda: siblings(twins(), 0), _images),
    "weight read twice": (lambda: siblings(weight_read_twice()), _images),
}


@cache
def candidates_of(name: str) -> Given:
    """The sites of one of the programs; found once."""
    build, frames = PROGRAMS[name]
    program = build()
    return given(program, frames(program))
