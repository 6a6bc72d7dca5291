"""Messages arrive whole or not at all."""

from __future__ import annotations

from io import BytesIO

from repsimc.compiler.isolation.messages import Message, receive, send


def written(message: Message) -> bytes:
    stream = BytesIO()
    send(stream, message)
    return stream.getvalue()


def test_what_is_sent_is_received() -> None:
    stream = BytesIO(written(Message({"do": "a", "path": "\udc80"}, [b"", b"\0" * 1000])))
    found = receive(stream)
    assert found == Message({"do": "a", "path": "\udc80"}, [b"", b"\0" * 1000])
    assert receive(stream) is None


def test_a_message_cut_off_anywhere_is_none() -> None:
    content = written(Message({"do": "a"}, [b"abc", b"de"]))
    for length in range(len(content)):
        assert receive(BytesIO(content[:length])) is None


def test_a_head_that_is_too_long_is_none() -> None:
    assert receive(BytesIO(b"\xff\xff\xff\xff" + b"{}" * 10)) is None
