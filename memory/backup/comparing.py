"""Whether a restored namespace holds what its snapshot says: key by key, by digests, and by questions.

Keys that expire soon are left out on both sides: they may go while they are counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memory.backup.capture import Capture
from memory.backup.keyspace import Section, renamed
from memory.backup.manifest import Manifest
from memory.backup.rows import KeyRow, read_rows, summed
from memory.backup.seen import Seen
from memory.backup.streams import read_head, read_stream
from memory.records import REGIMES
from memory.store.access import uncounted
from memory.store.codec import unpack_body, unpack_vector
from memory.store.layout import IndexSchema

if TYPE_CHECKING:
    from memory.connection import MemoryConnection
    from memory.retrieval.hits import Hit

SOON_MS = 600_000
"""Keys that expire within so long are not compared; reading all of a memory of millions takes minutes."""
QUESTIONS = 8
"""Searches of the sample."""
TOP_K = 10
SAME_DISTANCE = 2e-5
"""Distances of float32 vectors differ by rounding, by the order of sums: by 1e-6 and less."""
SAME_DISTANCE_HALF = 2e-3
"""The same of vectors that are kept in half precision."""
LEAST_RECALL = 0.9
"""Share of the nearest that an approximate index has to find."""

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of one section, by kind, and the digest of all of them."""

    kinds: dict[str, int]
    digest: int

    def told(self) -> str:
        """The rows in words."""
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items())) or "nothing"


class _Summing:
    def __init__(self, expires_after_ms: int) -> None:
        self._after_ms = expires_after_ms
        self._kinds: Counter[str] = Counter()
        self._digest = 0

    def add(self, rows: Sequence[KeyRow]) -> None:
        lasting = [row for row in rows if row.expires_ms is None or row.expires_ms > self._after_ms]
        self._kinds.update(row.kind for row in lasting)
        self._digest = summed((row.digest for row in lasting), self._digest)

    def result(self) -> Content:
        return Content(dict(self._kinds), self._digest)


async def compare_redis(
    mem: MemoryConnection, folder: Path, manifest: Manifest, now_ms: int, announce: Announce = lambda _: None
) -> list[str]:
    """Differences between a namespace and the snapshot that it was restored from, section by section, in words.

    Cost: reads all of both, some hundreds of keys at a time.
    """
    differences = []
    for section in Section:
        announce(f"comparing {section}")
        wanted = written_content(folder, manifest, section, now_ms + SOON_MS)
        found = await held_content(mem, manifest.namespace, section, now_ms + SOON_MS)
        if found != wanted:
            detail = f"{found.told()} in place of {wanted.told()}" if found.kinds != wanted.kinds else "other content"
            differences.append(f"{section}: {detail}")
    return differences


def written_content(folder: Path, manifest: Manifest, section: Section, expires_after_ms: int) -> Content:
    """What a snapshot holds of a section, without keys that expire up to a time."""
    total = _Summing(expires_after_ms)
    for path in manifest.paths("redis", section.value):
        for rows in read_rows(folder / path):
            total.add(rows)
    return total.result()


async def held_content(mem: MemoryConnection, source: str, section: Section, expires_after_ms: int) -> Content:
    """What a namespace holds of a section, as it would be under the name of another."""
    total = _Summing(expires_after_ms)
    capture, known = Capture(mem.link, mem.keys), Seen()
    async for _, names in capture.names(section):
        fresh = known.add(names)
        rows = await capture.rows(section, fresh)
        total.add([renamed(row, mem.namespace, source) for row in rows])
        if section in (Section.STREAMS, Section.OTHER):
            for name, is_stream in zip(fresh, await capture.is_stream(fresh), strict=True):
                head = await read_head(mem.link, mem.keys, name, None) if is_stream else None
                if head is None or (head.expires_ms is not None and head.expires_ms <= expires_after_ms):
                    continue
                async for rows in read_stream(mem.link, mem.keys, head):
                    total.add(rows)
    return total.result()


# --- questions -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Question:
    """A search among one agent's experiences of one product in one regime, and the nearest found so far.

    `soon` names those that may expire before the memory is asked: they count for nothing on either side.
    """

    agent_id: str
    product_id: str
    regime: str
    vector: npt.NDArray[np.float32]
    nearest: list[tuple[float, str]]
    soon: set[str]

    def offer(self, distances: Sequence[float], names: Sequence[str]) -> None:
        self.nearest = sorted([*self.nearest, *zip(distances, names, strict=True)])[:TOP_K]

    def lasting(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits without those that may expire."""
        return [hit for hit in hits if hit.memory.memory_id not in self.soon]


@dataclass(frozen=True, slots=True)
class Sample:
    """How many searches were asked, and what was wrong with them."""

    questions: int
    differences: tuple[str, ...]


async def compare_answers(
    mem: MemoryConnection, folder: Path, manifest: Manifest, now_ms: int, announce: Announce = lambda _: None
) -> Sample:
    """Ask a restored memory for the experiences nearest to some of its own, and compare with the snapshot's files.

    What is nearest in the files is computed from all their vectors, without any index. Where the memory's index is
    exact, the answers have to be equal; of an approximate one, `LEAST_RECALL` of them.
    """
    encoder_id = await mem.encoders.current()
    schema = None if encoder_id is None else await mem.indexes.episodic(encoder_id)
    if schema is None:
        return Sample(0, ())
    announce("searching the snapshot's files")
    questions = list(_chosen(folder, manifest, schema, now_ms + SOON_MS))
    _answer(questions, folder, manifest, schema, now_ms)
    differences = []
    for question in questions:
        announce(f"asking for experiences of {question.agent_id}")
        with uncounted():
            hits = await mem.retrieval.retrieve_similar_experiences(
                question.vector,
                agent_id=question.agent_id,
                product_id=question.product_id,
                regime=question.regime,
                top_k=TOP_K,
                post_filter=question.lasting if question.soon else None,
            )
        found = [(float(hit.distance), hit.memory.memory_id) for hit in hits]
        if problem := _difference(question, found, schema):
            differences.append(problem)
    return Sample(len(questions), tuple(differences))


def _difference(question: _Question, found: list[tuple[float, str]], schema: IndexSchema) -> str:
    wanted, tolerance = question.nearest, SAME_DISTANCE if schema.vector_type == "FLOAT32" else SAME_DISTANCE_HALF
    whom = f"a search of {question.agent_id} in {question.product_id}, {question.regime}"
    if len(found) != len(wanted):
        return f"{whom}: {len(found)} answers in place of {len(wanted)}"
    furthest = wanted[-1][0] + tolerance
    near = sum(distance <= furthest for distance, _ in found)
    if schema.algorithm == "FLAT":
        equal = all(abs(one - other) <= tolerance for (one, _), (other, _) in zip(sorted(found), wanted, strict=True))
        return "" if equal else f"{whom}: other answers than the files hold"
    return "" if near >= LEAST_RECALL * len(wanted) else f"{whom}: {near} of the nearest {len(wanted)} only"


def _lasting(folder: Path, manifest: Manifest, now_ms: int) -> Iterator[list[KeyRow]]:
    for path in manifest.paths("redis", Section.EPISODIC.value):
        for rows in read_rows(folder / path):
            yield [row for row in rows if row.expires_ms is None or row.expires_ms > now_ms]


def _chosen(folder: Path, manifest: Manifest, schema: IndexSchema, now_ms: int) -> Iterator[_Question]:
    """Questions about the experiences whose names have the smallest hashes: any, and always the same."""
    smallest: list[tuple[bytes, KeyRow]] = []
    for rows in _lasting(folder, manifest, now_ms):
        own = [(hashlib.sha256(row.key).digest(), row) for row in rows if _vector(row, schema) is not None]
        smallest = sorted([*smallest, *own], key=lambda item: item[0])[:QUESTIONS]
    for _, row in smallest:
        vector = _vector(row, schema)
        if vector is not None:
            _, agent_id, product_id, _, _ = row.key.decode().split(":")
            yield _Question(agent_id, product_id, _regime(row), vector, [], set())


def _answer(questions: Sequence[_Question], folder: Path, manifest: Manifest, schema: IndexSchema, now_ms: int) -> None:
    """Find the nearest of each question among all experiences of the files."""
    for rows in _lasting(folder, manifest, now_ms):
        for question in questions:
            prefix = f"episodic:{question.agent_id}:{question.product_id}:".encode()
            found = []
            for row in rows:
                vector = _vector(row, schema) if row.key.startswith(prefix) else None
                if vector is None or _regime(row) != question.regime:
                    continue
                name = row.key.decode().rpartition(":")[2]
                if row.expires_ms is not None and row.expires_ms <= now_ms + SOON_MS:
                    question.soon.add(name)
                else:
                    found.append((name, vector))
            if found:
                vectors = np.stack([vector for _, vector in found]).astype(np.float64)
                wanted = question.vector.astype(np.float64)
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted)
                question.offer((1.0 - vectors @ wanted / lengths).tolist(), [name for name, _ in found])


def _vector(row: KeyRow, schema: IndexSchema) -> npt.NDArray[np.float32] | None:
    wanted = schema.vector_field.encode()
    for name, value in row.fields:
        if name == wanted:
            return unpack_vector(value, schema.vector_type)
    return None


def _regime(row: KeyRow) -> str:
    body = next(value for name, value in row.fields if name == b"body")
    return REGIMES[unpack_body(body).regime]
