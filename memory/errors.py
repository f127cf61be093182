"""Every error that a caller can meet. Each says what is wrong and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class CoinswarmError(Exception):
    """Base of all errors raised on purpose by this project.

    Parameters
    ----------
    message
        What is wrong, naming the value.
    remedy
        What the reader can do about it, as one sentence.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back from other processes as they were raised, whatever their own arguments are."""
        return _as_raised, (type(self), *self.args), dict(self.__dict__)


def _as_raised(kind: type[CoinswarmError], *arguments: Any) -> CoinswarmError:
    return kind.__new__(kind, *arguments)


# --- input ---------------------------------------------------------------------------------------------------


class InvalidRecordError(CoinswarmError, ValueError):
    """A record, or a field of one, that must not be stored."""

    def __init__(self, message: str, *, remedy: str, field: str) -> None:
        self.field = field
        super().__init__(message, remedy=remedy)


class FutureMessageError(InvalidRecordError):
    """Messages that are dated ahead of the clock that they are sent by; `message_ids` names all of them."""

    def __init__(self, message: str, *, remedy: str, message_ids: Sequence[str]) -> None:
        self.message_ids = tuple(message_ids)
        super().__init__(message, remedy=remedy, field="timestamp")


class InvalidQueryError(CoinswarmError, ValueError):
    """An argument of a query that cannot be answered; raised before anything is sent."""

    def __init__(self, message: str, *, remedy: str, argument: str) -> None:
        self.argument = argument
        super().__init__(message, remedy=remedy)


class ConflictingRecordError(CoinswarmError):
    """Other content under a memory id that is stored already."""


class MarketDataError(CoinswarmError, ValueError):
    """A candle file, or a span of it, that cannot be used."""


class EncoderError(CoinswarmError, ValueError):
    """An encoder that does not fit the data, or was not known yet at the time asked for."""


class CheckpointError(CoinswarmError, ValueError):
    """A policy's checkpoint that cannot be read, does not fit, or was not known yet at the time asked for."""


class MissingExtraError(CoinswarmError):
    """A package that this needs and that the install does not hold."""


class WindowError(CoinswarmError, ValueError):
    """A span that is not a window of the namespace's grid, or a window without data."""


class PastExpiredError(CoinswarmError, ValueError):
    """A question as of a time whose semantic memory is no longer kept in Redis; the ledger can still rebuild it."""


class LineError(CoinswarmError, ValueError):
    """A knowledge line that does not exist, or cannot be started, fed or taken over as asked."""


# --- servers -------------------------------------------------------------------------------------------------


class ServerUnsuitableError(CoinswarmError):
    """A configured Redis or Postgres that lacks what is needed (search, version, mode)."""


class AccessDeniedError(ServerUnsuitableError):
    """A Redis user who may not do what is needed; the missing right is named where the server names it."""


class StoreUnavailableError(CoinswarmError):
    """Redis or Postgres cannot be reached."""


class RestoreUnfinishedError(StoreUnavailableError):
    """A namespace whose restore has begun and not ended: it holds a part of a memory, which must not be asked."""


class SnapshotError(CoinswarmError, ValueError):
    """A snapshot that is damaged, truncated, of a newer format, or cannot be restored where it was to go."""


class ReindexError(CoinswarmError):
    """A change of index that cannot be begun, or cannot go on, as asked."""


class EmbeddedServerError(CoinswarmError):
    """An embedded server that does not start or stop as it should."""


class UnsupportedPlatformError(EmbeddedServerError):
    """No wheel with the servers exists for this platform, or it is not installed."""


class HomeTooNewError(EmbeddedServerError):
    """A home written by a newer version."""


# --- consolidation -------------------------------------------------------------------------------------------


class LedgerTooNewError(CoinswarmError):
    """A ledger whose schema is newer than this version of the software."""


class NamespaceBusyError(CoinswarmError):
    """Another run holds the namespace."""


class FencedOutError(CoinswarmError):
    """A run whose fencing token has been overtaken: it must not write any more."""


class IncompleteGenerationError(CoinswarmError):
    """A generation of a window that names summaries which are not there."""


class SealedWindowError(CoinswarmError):
    """A window with neither complete experiences nor an archive; its summaries stand."""


class BenchmarkRegressionError(CoinswarmError):
    """Retrieval that is slower, or finds less, than it did on this machine before.

    Parameters
    ----------
    regressions
        Each figure beside its past, in words.
    figures
        All that was measured, as the flow would have returned it.
    """

    def __init__(
        self, message: str, *, remedy: str, regressions: Sequence[str] = (), figures: Mapping[str, Any] | None = None
    ) -> None:
        self.regressions = tuple(regressions)
        self.figures = dict(figures or {})
        super().__init__(message, remedy=remedy)


class ArchiveError(CoinswarmError):
    """An archived window that is missing or does not match its content hash."""


class ArchiveUnavailableError(ArchiveError):
    """The place of the archive cannot be reached, read or written to; what is archived there may well be whole."""
