"""What is tried again, and with how many threads a task thinks."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from memory.errors import (
    ArchiveError,
    ArchiveUnavailableError,
    FencedOutError,
    SealedWindowError,
    StoreUnavailableError,
)
from tasks.progress import Steps
from tasks.retry import may_pass, one_thread


def archive_error(cause: BaseException | None) -> ArchiveUnavailableError:
    error = ArchiveUnavailableError("the archive cannot be read.", remedy="Look.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (StoreUnavailableError("away.", remedy="Wait."), True),
        (archive_error(OSError(errno.EIO, "input/output error")), True),
        (archive_error(ConnectionResetError(errno.ECONNRESET, "reset")), True),
        (archive_error(TimeoutError("no answer")), True),
        (archive_error(OSError(errno.ENOSPC, "no space left")), False),
        (archive_error(PermissionError(errno.EACCES, "denied")), False),
        (archive_error(None), False),
        (ArchiveError("the file does not match its hash.", remedy="Restore it."), False),
        (SealedWindowError("sealed.", remedy="Restore."), False),
        (FencedOutError("overtaken.", remedy="Stop."), False),
        (RuntimeError("a defect"), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def blas_threads() -> int:
    """Threads of BLAS and OpenMP, as this thread would use them."""
    return max(library["num_threads"] for library in threadpool_info())


@pytest.fixture
def two_threads() -> Iterator[None]:
    """BLAS uses two threads, and nobody has claimed to decide about that."""
    libraries = ThreadpoolController().select(threading_layer="pthreads").lib_controllers
    before = [library.get_num_threads() for library in libraries]

    def use(numbers: list[int]) -> None:
        for library, number in zip(libraries, numbers, strict=True):
            library.set_num_threads(number)
            library.clear_controlling_thread()

    use([2] * len(libraries))
    yield
    use(before)


@pytest.mark.usefixtures("two_threads")
def test_blocks_that_overlap_in_several_threads_keep_one_thread_of_blas_until_the_last_ends() -> None:
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> int:
        with one_thread():
            first_is_in.set()
            assert second_is_in.wait(10)
            seen = blas_threads()
        first_is_out.set()
        return seen

    def second() -> int:
        assert first_is_in.wait(10)
        with one_thread():
            second_is_in.set()
            assert first_is_out.wait(10)
            return blas_threads()

    assert blas_threads() == 2
    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in (pool.submit(first), pool.submit(second))] == [1, 1]
    assert blas_threads() == 2


def test_a_run_that_lost_its_lease_begins_no_other_step() -> None:
    def overtaken() -> None:
        raise FencedOutError("a later run holds the namespace.", remedy="Stop.")

    steps = Steps(check=overtaken)
    with pytest.raises(FencedOutError), steps.step("fold"):
        pytest.fail("the step began")
