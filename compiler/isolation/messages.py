"""What the compiler and its child process say to each other: a JSON head and pieces of bytes.

On the wire: the length of the head (4 bytes, little-endian), the head, and each piece behind its
length (8 bytes). The head says how many pieces follow. No pickle: nothing that comes in is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

# A head holds names, numbers and error texts.
_MAX_HEAD_NBYTES = 1 << 28


@dataclass(frozen=True)
class Message:
    """A request or a reply: `head` is JSON, `pieces` are bytes that mean what the head says."""

    head: Mapping[str, Any]
    pieces: Sequence[bytes] = ()


def send(stream: BinaryIO, message: Message) -> None:
    """Write one message. Raises OSError where the other side has gone."""
    head = json.dumps({**message.head, "pieces": len(message.pieces)}).encode()
    stream.write(len(head).to_bytes(4, "little") + head)
    for piece in message.pieces:
        stream.write(len(piece).to_bytes(8, "little"))
        stream.write(piece)
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """The next message; None where the stream ends, before a message or within one."""
    length = _exactly(stream, 4)
    if length is None or int.from_bytes(length, "little") > _MAX_HEAD_NBYTES:
        return None
    text = _exactly(stream, int.from_bytes(length, "little"))
    if text is None:
        return None
    head: dict[str, Any] = json.loads(text)
    pieces: list[bytes] = []
    for _ in range(int(head.pop("pieces"))):
        length = _exactly(stream, 8)
        piece = None if length is None else _exactly(stream, int.from_bytes(length, "little"))
        if piece is None:
            return None
        pieces.append(piece)
    return Message(head, pieces)


def _exactly(stream: BinaryIO, count: int) -> bytes | None:
    # A buffered reader gives fewer bytes only where the stream ends.
    found = stream.read(count) if count else b""
    return found if len(found) == count else None
