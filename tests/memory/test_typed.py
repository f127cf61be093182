"""Typed content is read the same from all threads, also when none has met the type before."""

from __future__ import annotations

import subprocess
import sys

ALL_AT_ONCE = """
import threading
from dataclasses import make_dataclass
from memory.typed import convert_to, json_as, msgpack_as
import msgspec

for round in range(60):
    inner = make_dataclass("Inner", [(f"field_{number}", "float", 0.0) for number in range(30)])
    outer = make_dataclass("Outer", [(f"part_{number}", inner) for number in range(8)])
    content = {f"part_{number}": {} for number in range(8)}
    packed, text = msgspec.msgpack.encode(content), msgspec.json.encode(content)
    start = threading.Barrier(6)
    found = []

    def read(how):
        start.wait()
        found.append(how())

    ways = [lambda: json_as(outer, text), lambda: msgpack_as(outer, packed), lambda: convert_to(outer, content)] * 2
    threads = [threading.Thread(target=read, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(one == found[0] for one in found)
"""


def test_threads_that_meet_a_type_at_the_same_time_all_read_it() -> None:
    done = subprocess.run([sys.executable, "-c", ALL_AT_ONCE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
