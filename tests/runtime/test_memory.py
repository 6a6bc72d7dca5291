from __future__ import annotations

import sys

import pytest

from repsimc.runtime.errors import BackendError
from repsimc.runtime.memory import Usage, usage, usage_of
from tests.runtime.bundles import in_child

SMAPS = """\
55d0-55d1 r-xp 00000000 fe:00 11 /usr/bin/python3
Size:                 40 kB
Pss:                  10 kB
Private_Clean:         4 kB
Private_Dirty:         2 kB
Anonymous:             2 kB
VmFlags: rd ex mr
7f00-7f10 rw-p 00000000 00:00 0
Pss:                 100 kB
Private_Clean:         0 kB
Private_Dirty:       100 kB
Anonymous:           100 kB
7f20-7f30 r-xp 00000000 fe:00 12 /x/libonnxruntime.so.1.31.1
Pss:                5000 kB
Private_Clean:      5000 kB
Private_Dirty:        20 kB
Anonymous:            20 kB
7f40-7f50 r--p 00000000 fe:00 13 /b/merged.onnx.data
Pss:                 300 kB
Private_Clean:       300 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
""".splitlines()


def test_libraries_are_left_out_and_mapped_weights_are_not() -> None:
    kib = 1024
    assert usage_of(SMAPS) == Usage(406 * kib, 410 * kib, 122 * kib)


@pytest.mark.skipif(sys.platform != "linux", reason="smaps is Linux's")
def test_held_memory_shows_and_freed_memory_does_not() -> None:
    done = in_child("""
import numpy
from repsimc.runtime.memory import usage
before = usage()
array = numpy.ones(32 * 2**20, numpy.uint8)
held = usage() - before
del array
freed = usage() - before
print(held.uss_nbytes >> 20, held.anonymous_nbytes >> 20, freed.uss_nbytes >> 20)
""")
    assert done.stdout == "32 32 0\n", done.stderr


def test_off_linux_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BackendError, match="Linux only"):
        usage()
