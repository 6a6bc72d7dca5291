"""Trains the three example networks on scikit-learn's bundled digits and writes them as ONNX.

    pip install -c constraints.txt -e ".[compile,torch]" scikit-learn
    python examples/digits/train.py --output examples/digits

Writes digit.onnx, parity.onnx, digit_deep.onnx, frames.npz and labelled.npz. Seeded and run on one
thread: the same machine and library versions give the same bytes; another processor rounds
differently and gives other weights of the same quality.
"""

from __future__ import annotations

import argparse
import copy
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
HELD_OUT = 500  # images in labelled.npz, seen by no training and no calibration
CALIBRATION = 900  # images in frames.npz, a part of the training images, without labels
OPSET = 17  # written with IR version 8


class Residual(nn.Module):
    """Two 3x3 convolutions and the input (through a 1x1 where the shape changes), then a ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.skip = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.skip(x))


class DigitNet(nn.Module):
    """A residual network for float32 [N,1,8,8]; `blocks` per stage, each stage of its `width`."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        width_in = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layers: list[nn.Module] = []
            for block in range(count):
                layers.append(Residual(width_in, width, 2 if stage and not block else 1))
                width_in = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(width_in, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(image)).mean((2, 3)))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images, each moved by up to one pixel either way, with zeros moved in."""
    padded = functional.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([padded[k, :, y : y + 8, x : x + 8] for k, (y, x) in enumerate(offsets)])


def train(
    network: nn.Module,
    frozen: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    epochs: int,
    rate: float,
) -> None:
    """Trains in place; the modules in `frozen` keep every bit, their running statistics too."""
    for module in frozen:
        module.requires_grad_(False)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(learned, lr=rate, weight_decay=5e-3)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    network.train()
    for module in frozen:
        module.eval()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: batches * 64].split(64):
            logits = network(shifted(images[rows], generator))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()


def write(network: nn.Module, path: Path, keep_norms: bool = False) -> None:
    """The network as ONNX without metadata; BatchNorm is folded unless `keep_norms`."""
    mode = torch.onnx.TrainingMode.PRESERVE if keep_norms else torch.onnx.TrainingMode.EVAL
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is announced as deprecated; the new one would need onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            buffer,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            opset_version=OPSET,
            training=mode,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = 8
    for field in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        model.ClearField(field)
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is the label's."""
    with torch.no_grad():
        return (network(images).argmax(1) == labels).double().mean().item()


def main() -> None:
    """Trains, measures and writes everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="a folder")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    pixels = (data.images[order, None] / 16).astype(np.float32)
    digits = data.target[order].astype(np.int64)
    images, digit = torch.from_numpy(pixels[HELD_OUT:]), torch.from_numpy(digits[HELD_OUT:])
    unseen, unseen_digit = torch.from_numpy(pixels[:HELD_OUT]), torch.from_numpy(digits[:HELD_OUT])

    torch.manual_seed(SEED)
    small = DigitNet(blocks=(2, 2), widths=(24, 40), classes=10)
    train(small, (), images, digit, epochs=40, rate=5e-3)

    # parity starts as digit and keeps all but its last block and classifier.
    parity = copy.deepcopy(small)
    parity.classifier = nn.Linear(40, 2)
    stages = [stage for stage in parity.stages if isinstance(stage, nn.Sequential)]
    frozen = (parity.stem, stages[0], stages[1][0])
    train(parity, frozen, images, digit % 2, epochs=15, rate=3e-3)

    torch.manual_seed(SEED + 1)
    deep = DigitNet(blocks=(5, 3), widths=(32, 48), classes=10)
    train(deep, (), images, digit, epochs=30, rate=5e-3)

    for name, network, labels, keep_norms in (
        ("digit", small, unseen_digit, False),
        ("parity", parity, unseen_digit % 2, False),
        ("digit_deep", deep, unseen_digit, True),
    ):
        path = output / f"{name}.onnx"
        write(network, path, keep_norms)
        correct = accuracy(network, unseen, labels)
        print(f"{path}: {path.stat().st_size:,} bytes, {correct:.1%} of {HELD_OUT} unseen images")

    np.savez_compressed(output / "frames.npz", image=pixels[HELD_OUT:][:CALIBRATION])
    np.savez_compressed(
        output / "labelled.npz",
        image=pixels[:HELD_OUT],
        # Not called like a model: an array of that name would be taken as the model's frames.
        digit_label=digits[:HELD_OUT],
        parity_label=digits[:HELD_OUT] % 2,
    )


if __name__ == "__main__":
    main()
