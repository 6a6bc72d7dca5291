"""Similarity of all layers by libraries that people use, each as its documentation says.

They run PyTorch models, so the networks are built again in torch with the shapes of those that
repsimc is given; what takes time does not depend on the weights. No part of the project needs
torch, pytorch-cka or torch_cka: what is not installed is left out, and said so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]
Models = list[tuple[Any, list[str]]]


def torch_resnet(blocks: Sequence[int], widths: Sequence[int], bottleneck: bool):  # type: ignore[no-untyped-def]
    """A residual network in torch, and the names of its activations.

    `blocks` per stage with `widths`; with `bottleneck` as ResNet-50 (stem of stride 4, 1000
    classes), else as the CIFAR ResNets (stem of stride 1, 10 classes).
    """
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            out = 4 * width if bottleneck else width
            steps: list[nn.Module] = []
            if bottleneck:
                steps += [nn.Conv2d(channels, width, 1), nn.ReLU()]
                steps += [nn.Conv2d(width, width, 3, stride, 1), nn.ReLU()]
                steps += [nn.Conv2d(width, out, 1)]
            else:
                steps += [nn.Conv2d(channels, width, 3, stride, 1), nn.ReLU()]
                steps += [nn.Conv2d(width, out, 3, 1, 1)]
            self.steps = nn.Sequential(*steps)
            same = channels == out and stride == 1
            self.skip = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride)
            self.relu = nn.ReLU()

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.relu(self.steps(x) + self.skip(x))

    layers: list[nn.Module] = []
    if bottleneck:
        layers += [nn.Conv2d(3, widths[0], 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    else:
        layers += [nn.Conv2d(3, widths[0], 3, 1, 1), nn.ReLU()]
    channels = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths)):
        for block in range(count):
            layers.append(Block(channels, width, 2 if stage and block == 0 else 1))
            channels = 4 * width if bottleneck else width
    classes = 1000 if bottleneck else 10
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    model = nn.Sequential(*layers).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    return model, names


def libraries(
    models: Models, frames: Frames, batch: int, fastest: bool = False
) -> dict[str, float | str]:
    """Seconds that each library needs for all pairs of layers of two models, or why it can't.

    With `fastest` only that one is tried.
    """
    found: dict[str, float | str] = {}
    tried = {"pytorch-cka": _pytorch_cka} | ({} if fastest else {"torch_cka": _torch_cka})
    for name, call in tried.items():
        try:
            with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
                found[name] = _timed(call, models, frames, batch)
        except ImportError as error:
            found[name] = f"not installed: {error.name}"
    return found


def _loader(frames: Frames, batch: int, tuples: bool):  # type: ignore[no-untyped-def]
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    images = torch.from_numpy(frames)
    data = TensorDataset(images, torch.zeros(len(frames))) if tuples else images
    return DataLoader(data, batch_size=batch)  # type: ignore[arg-type]


def _pytorch_cka(models: Models, frames: Frames, batch: int) -> object:
    from cka import compute_cka

    (left, left_layers), (right, right_layers) = models
    return compute_cka(
        left,
        right,
        _loader(frames, batch, tuples=False),
        layers=left_layers,
        model2_layers=right_layers,
        progress=False,
    )


def _torch_cka(models: Models, frames: Frames, batch: int) -> object:
    import torch
    from torch_cka import CKA

    (left, left_layers), (right, right_layers) = models
    with torch.inference_mode():
        found = CKA(left, right, "left", "right", left_layers, right_layers, "cpu")
        found.compare(_loader(frames, batch, tuples=True))
        return found.export()


def _timed(
    call: Callable[[Models, Frames, int], object], models: Models, frames: Frames, batch: int
) -> float:
    call(models, frames[:batch], batch)
    start = time.perf_counter()
    call(models, frames, batch)
    return time.perf_counter() - start
