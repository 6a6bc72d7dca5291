"""The depth curve as a picture: fidelity and accuracy over the multiply-accumulates left."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from ..units import printable
from .report import DepthCurve

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 36, 52
# Okabe and Ito's palette reads for the colour-blind, too.
_COLOURS = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233)]
_GREY = (210, 210, 210)


def depth_png(curve: DepthCurve, picked: int | None = None) -> bytes:
    """A PNG: x is the share of multiply-accumulates left, y fidelity (and accuracy), 0..1."""
    base = curve.points[0]
    lines: dict[str, list[float]] = {
        base.worst.metric: [point.worst.value for point in curve.points]
    }
    for name in base.accuracy:
        lines[f"accuracy {name}"] = [point.accuracy[name] for point in curve.points]
    shares = [point.macs / base.macs if base.macs else 1.0 for point in curve.points]
    shown = [value for values in lines.values() for value in values if value == value]
    low = max(0.0, min([*shown, 0.95]) - 0.02)
    left = min(shares) - 0.02
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()

    def place(share: float, value: float) -> tuple[float, float]:
        x = _LEFT + (share - left) / max(1.0 - left, 1e-9) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (1.0 - value) / max(1.0 - low, 1e-9) * (_HEIGHT - _TOP - _BOTTOM)
        return x, y

    for step in range(6):
        value, share = low + (1 - low) * step / 5, left + (1 - left) * step / 5
        draw.line([place(left, value), place(1, value)], fill=_GREY)
        draw.text((6, place(left, value)[1] - 6), f"{value:.3f}", fill="black", font=font)
        draw.line([place(share, low), place(share, 1)], fill=_GREY)
        x = place(share, low)[0]
        draw.text((x - 12, _HEIGHT - _BOTTOM + 6), f"{100 * share:.0f} %", fill="black", font=font)
    title = printable(f"depth of {curve.model}: fidelity over multiply-accumulates left")
    draw.text((_LEFT, 6), title.encode("ascii", "replace").decode(), fill="black", font=font)
    for index, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [place(s, v) for s, v in zip(shares, values) if v == v]
        draw.line(points, fill=colour, width=2)
        for point, (x, y) in zip(curve.points, points):
            size = 5 if point.regions == picked else 3
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
            if index == 0:
                draw.text((x - 4, y + 6), str(point.regions), fill="black", font=font)
        label = printable(name).encode("ascii", "replace").decode()
        draw.text((_LEFT + 220 * index, _HEIGHT - 20), label, fill=colour, font=font)
    packed = io.BytesIO()
    canvas.save(packed, "PNG")
    return packed.getvalue()
