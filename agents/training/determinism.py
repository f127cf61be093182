"""Where torch computes, with how many threads, and by algorithms that give the same bits each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memory.errors import InvalidRecordError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str = "auto") -> torch.device:
    """The device of a setting: ``auto`` is a GPU where there is one.

    Raises
    ------
    InvalidRecordError
        Another name, or ``cuda`` where there is none.
    """
    if device not in DEVICES:
        raise InvalidRecordError(f"device {device!r} is not known.", remedy="Use auto, cpu or cuda.", field="device")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InvalidRecordError("no CUDA device is there.", remedy="Use device auto or cpu.", field="device")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


@contextmanager
def reproducible(device: torch.device, threads: int = 1) -> Iterator[None]:
    """The block computes deterministically, with a fixed number of threads; what was set before comes back.

    Sums depend on the number of threads in their last bits. On a GPU some operations have no deterministic version;
    those warn instead of failing, and the same seed may then end in other last bits.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads_before = torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    if threads != threads_before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if threads != threads_before:
            torch.set_num_threads(threads_before)
