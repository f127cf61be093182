"""The ledger: one door to what each run read, decided and found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from sqlalchemy.orm import Session

from memory.ledger.benchmarks import BenchmarkRepository
from memory.ledger.database import Database
from memory.ledger.fence import FenceRepository, guard
from memory.ledger.folds import FoldRepository
from memory.ledger.integrity import damaged
from memory.ledger.keepalive import KeepAlive
from memory.ledger.knowledge_digest import digest_rows, knowledge_digest
from memory.ledger.knowledge_rows import Damage, KnowledgeDigest
from memory.ledger.lineage import EventRepository, RefoldRepository
from memory.ledger.lines import LineRepository
from memory.ledger.migrate import migrate, schema_revision
from memory.ledger.projections import ProjectionRepository
from memory.ledger.removals import RemovalRepository
from memory.ledger.retention import RetentionRepository
from memory.ledger.rows import FencingToken
from memory.ledger.runs import RunRepository
from memory.ledger.scorecards import AccessRepository, ScorecardRepository
from memory.ledger.sizes import SizeRepository
from memory.ledger.staging import StagingRepository
from memory.ledger.training import TrainingRepository
from memory.ledger.windows import WindowRepository
from memory.window import Window


class Ledger:
    """An open ledger. Safe for threads; open one in each process.

    Every method runs in a transaction of its own, or joins the one of `transaction`. Those that change knowledge take
    the run's fencing token and raise FencedOutError where it was overtaken. All raise StoreUnavailableError where
    Postgres is away; nothing is half-written then, and the same call can simply be made again.

    Attributes
    ----------
    runs, fence, lines, staging, windows, folds, refolds, projections, events, scorecards, access, removals, benchmarks,
    sizes, training
        What the ledger keeps, by concern.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.fence = FenceRepository(database)
        self.runs = RunRepository(database, self.fence)
        self.lines = LineRepository(database)
        self.staging = StagingRepository(database)
        self.windows = WindowRepository(database)
        self.folds = FoldRepository(database)
        self.refolds = RefoldRepository(database)
        self.projections = ProjectionRepository(database)
        self.events = EventRepository(database)
        self.scorecards = ScorecardRepository(database)
        self.access = AccessRepository(database)
        self.removals = RemovalRepository(database)
        self.benchmarks = BenchmarkRepository(database)
        self.sizes = SizeRepository(database)
        self.training = TrainingRepository(database)
        self.retention = RetentionRepository(database)

    @classmethod
    def open(cls, database_url: str) -> Ledger:
        """Opens the ledger in a Postgres database, bringing its schema up to date first.

        Raises
        ------
        StoreUnavailableError
            Postgres cannot be reached.
        LedgerTooNewError
            The schema was made by a newer version of the software.
        ServerUnsuitableError
            The URL is not Postgres's, or the database is Prefect's or in another encoding than UTF8.
        """
        database = Database.connect(database_url)
        try:
            with database.translated_errors():
                migrate(database.engine)
        except BaseException:
            database.dispose()
            raise
        return cls(database)

    def close(self) -> None:
        """Closes all connections."""
        self._database.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self, token: FencingToken | None = None) -> Iterator[Session]:
        """Makes everything that this thread does with the ledger inside the block one transaction.

        With a token, the block is refused at once where it was overtaken, and holds overtakers off until its end: keep
        it short, and do the thinking before.
        """
        with self._database.transaction() as session:
            if token is not None:
                guard(session, token)
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A transaction (REPEATABLE READ, read only) in which all that is read is of one moment, that of its first
        question. Postgres ends it where nothing is asked for five minutes."""
        with self._database.snapshot() as session:
            yield session

    def keep_alive(self, run_id: str, lease_s: float, token: FencingToken | None = None) -> KeepAlive:
        """A context manager whose thread renews the run's heartbeat, and its lease where a token is given."""
        return KeepAlive(self.runs, self.fence, run_id, lease_s, token)

    def truncate_from(self, token: FencingToken, line: str, window: Window) -> None:
        """Drops all that folds made of a window and the later ones; summaries, archives and access counts stay."""
        with self.transaction(token):
            self.folds.truncate_from(token, line, window)
            self.projections.truncate_from(token, line, window)
            self.events.truncate_from(token, line, window)
            self.scorecards.truncate_from(token, line, window)

    def digest(self, namespace: str, lines: Sequence[str] | None = None) -> KnowledgeDigest:
        """SHA-256 over all knowledge of a namespace, or of some lines (see `knowledge_digest` for what is covered)."""
        with self._database.transaction() as session:
            return knowledge_digest(session, namespace, lines)

    def digest_rows(self, line: str, part: str) -> Sequence[str]:
        """The rows of one part of a line that enter its digest, as canonical JSON, in order: to see what differs.

        Parameters
        ----------
        part
            One of `memory.ledger.knowledge_digest.PARTS`.
        """
        with self._database.transaction() as session:
            return digest_rows(session, line, part)

    def damaged(self, line: str) -> Iterator[Damage]:
        """Rows of a line that do not agree with their own digests: whoever changed them was not this software.

        Cost: Postgres hashes all payloads of the line; projected rows are read in pages.
        """
        return damaged(self._database, line)

    @property
    def schema_revision(self) -> str | None:
        """Revision of the schema in the database."""
        with self._database.translated_errors(), self._database.engine.connect() as connection:
            return schema_revision(connection)

    @property
    def display_url(self) -> str:
        """Where the ledger is, without a password."""
        return self._database.display_url
