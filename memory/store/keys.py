"""Where everything lies in Redis: key names, index names and the tags that filters look up.

All keys of a namespace begin with its name and a colon; ids hold neither colons, commas nor equal signs
(`memory.records.IDENTIFIER_PATTERN`), so keys and tags can be taken apart again without escaping.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from memory.errors import InvalidRecordError
from memory.records import REGIMES, EpisodicMemory
from memory.settings import NAMESPACE_PATTERN

SCHEMA_VERSION = "v1"
"""Version of the layout of records and indexes; part of the index names."""

STATE_VECTOR = "state_vector"
CONCEPT_VECTOR = "concept_vector"
TAG_SEPARATOR = ","
DRILL_PREFIX = "drill-"
"""Begins the names of namespaces into which restoring is tried."""
_REGIME_CODES = {regime: str(code) for code, regime in enumerate(REGIMES)}
"""Regimes in tags: four of an experience's tags hold one, and a digit saves up to 52 bytes a memory."""


class EpisodicKey(NamedTuple):
    """What the key of an experience says."""

    agent_id: str
    product_id: str
    timestamp_ms: int
    memory_id: str


class SharedKey(NamedTuple):
    """What the key of a shared experience says."""

    product_id: str
    memory_id: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one namespace."""

    namespace: str

    def __post_init__(self) -> None:
        if not NAMESPACE_PATTERN.fullmatch(self.namespace):
            raise InvalidRecordError(
                f"namespace {self.namespace!r} is not a valid name.",
                remedy="Use 1 to 32 of a-z, 0-9 and '-'.",
                field="namespace",
            )

    # --- experiences -----------------------------------------------------------------------------------------

    @property
    def episodic_prefix(self) -> str:
        """Prefix of all experiences."""
        return f"{self.namespace}:episodic:"

    def episodic(self, agent_id: str, product_id: str, timestamp_ms: int, memory_id: str) -> str:
        """Key of an experience."""
        return f"{self.namespace}:episodic:{agent_id}:{product_id}:{timestamp_ms}:{memory_id}"

    def parse_episodic(self, key: bytes) -> EpisodicKey:
        """What a key made by `episodic` says."""
        agent, product, timestamp_ms, memory_id = key[len(self.namespace) + 10 :].decode().split(":")
        return EpisodicKey(agent, product, int(timestamp_ms), memory_id)

    def episodic_index(self, encoder_id: str) -> str:
        """Name of the index of one encoder's experiences."""
        return f"{self.namespace}:episodic:{SCHEMA_VERSION}:{encoder_id}"

    @property
    def episodic_alias(self) -> str:
        """Alias of the index of the namespace's current encoder."""
        return f"{self.namespace}:episodic_memory_index"

    def index_schema(self, encoder_id: str) -> str:
        """Key that says how an encoder's index of experiences was built."""
        return f"{self.namespace}:index_schema:{encoder_id}"

    def index_state(self, part: str, owner: str) -> str:
        """Key of one part of what is known of an index (shadow, epoch, pairs, todo, job), beside its schema."""
        return f"{self.namespace}:index_{part}:{owner}"

    def episodic_pair_prefix(self, agent_id: str, product_id: str) -> str:
        """Prefix of the experiences of one agent in one product."""
        return f"{self.namespace}:episodic:{agent_id}:{product_id}:"

    @property
    def decision_prefix(self) -> str:
        """Prefix of all decision traces."""
        return f"{self.namespace}:decision:"

    def decision(self, decision_id: str) -> str:
        """Key of the trace of a decision; its id is the memory id of the experience that it became."""
        return f"{self.namespace}:decision:{decision_id}"

    # --- the shared pool -------------------------------------------------------------------------------------

    @property
    def shared_prefix(self) -> str:
        """Prefix of all shared experiences."""
        return f"{self.namespace}:shared_episodic:"

    def shared(self, product_id: str, memory_id: str) -> str:
        """Key of a shared experience; the agent is part of what its id is derived from."""
        return f"{self.namespace}:shared_episodic:{product_id}:{memory_id}"

    def parse_shared(self, key: bytes) -> SharedKey:
        """What a key made by `shared` says."""
        product, memory_id = key[len(self.namespace) + 17 :].decode().split(":")
        return SharedKey(product, memory_id)

    def shared_index(self, encoder_id: str) -> str:
        """Name of the index of one encoder's shared experiences."""
        return f"{self.namespace}:shared:{SCHEMA_VERSION}:{encoder_id}"

    @property
    def shared_alias(self) -> str:
        """Alias of the shared index of the namespace's current encoder."""
        return f"{self.namespace}:shared_memory_index"

    def shared_index_schema(self, encoder_id: str) -> str:
        """Key that says how an encoder's index of shared experiences was built."""
        return f"{self.namespace}:index_schema:shared:{encoder_id}"

    # --- features --------------------------------------------------------------------------------------------

    def feature_schema(self, schema_id: str) -> str:
        """Key of the names of one set of features."""
        return f"{self.namespace}:feature_schema:{schema_id}"

    # --- encoders --------------------------------------------------------------------------------------------

    def encoder(self, encoder_id: str) -> str:
        """Key of a registered encoder."""
        return f"{self.namespace}:encoder:{encoder_id}"

    @property
    def encoders(self) -> str:
        """Key of the set of the ids of all encoders that were registered or recorded."""
        return f"{self.namespace}:encoders"

    @property
    def current_encoder(self) -> str:
        """Key of the id of the current encoder."""
        return f"{self.namespace}:current_encoder"

    # --- semantic memory -------------------------------------------------------------------------------------

    @property
    def semantic_prefix(self) -> str:
        """Prefix of all versions of semantic memories."""
        return f"{self.namespace}:semantic:"

    def semantic(self, kind: str, memory_id: str, valid_from_ms: int, line: str) -> str:
        """Key of one version of a semantic memory; the knowledge line keeps equal ids of two lines apart."""
        return f"{self.namespace}:semantic:{kind}:{memory_id}:{valid_from_ms}:{line}"

    def semantic_manifest(self, line: str) -> str:
        """Key of the list of all versions of a knowledge line: what each holds and until when it is valid."""
        return f"{self.namespace}:semantic_manifest:{line}"

    def semantic_publications(self, line: str) -> str:
        """Key of the times at which a knowledge line was published, by kind."""
        return f"{self.namespace}:semantic_publications:{line}"

    def semantic_windows(self, kind: str, line: str) -> str:
        """Key of the windows that a kind of a knowledge line was published through, by when each became known."""
        return f"{self.namespace}:semantic_windows:{kind}:{line}"

    def semantic_stamp(self, line: str) -> str:
        """Key of a digest of a line's list of versions: it tells readers whether anything was published."""
        return f"{self.namespace}:semantic_stamp:{line}"

    def semantic_staged(self, line: str) -> str:
        """Key of the list of documents that a publication is about to make known; their names begin with it."""
        return f"{self.namespace}:semantic_staged:{line}"

    @property
    def current_line(self) -> str:
        """Key of the current knowledge line of each encoder."""
        return f"{self.namespace}:current_line"

    def line_history(self, encoder_id: str) -> str:
        """Key of the succession of an encoder's knowledge lines: from when on (milliseconds) which line is read."""
        return f"{self.namespace}:line_history:{encoder_id}"

    def memory_aliases(self, line: str) -> str:
        """Key of the ids that memories of a line had before, with the ids that they have."""
        return f"{self.namespace}:memory_aliases:{line}"

    def semantic_index(self, encoder_id: str) -> str:
        """Name of the index of one encoder's patterns and regimes."""
        return f"{self.namespace}:semantic:{SCHEMA_VERSION}:{encoder_id}"

    @property
    def semantic_alias(self) -> str:
        """Alias of the semantic index of the namespace's current encoder."""
        return f"{self.namespace}:semantic_memory_index"

    @property
    def access_prefix(self) -> str:
        """Prefix of all counters of retrievals."""
        return f"{self.namespace}:access:"

    def access(self, memory_id: str, day: datetime) -> str:
        """Key of the number of times that a memory was retrieved on a UTC day."""
        return f"{self.namespace}:access:{memory_id}:{day:%Y%m%d}"

    def access_batch(self, name: str) -> str:
        """Key that says that a batch of accesses is counted; no memory id begins as it does."""
        return f"{self.namespace}:access:-{name}"

    @property
    def fence(self) -> str:
        """Key of the highest fencing token that has written."""
        return f"{self.namespace}:fence"

    @property
    def restoring(self) -> str:
        """Key of what a restore that has not finished leaves word of; there is none in a whole memory."""
        return f"{self.namespace}:restoring"

    @property
    def on_disk(self) -> str:
        """Key that is written, and removed again, to wait for the server's disk."""
        return f"{self.namespace}:on_disk"

    # --- streams ---------------------------------------------------------------------------------------------

    def inbox(self, agent_id: str) -> str:
        """Key of an agent's stream of raw experiences."""
        return f"{self.namespace}:inbox:{agent_id}"

    @property
    def message_prefix(self) -> str:
        """Prefix of all streams of messages."""
        return f"{self.namespace}:messages:"

    def messages(self, sender_agent_id: str, run_id: str) -> str:
        """Key of the stream of what an agent tells others in a run."""
        return f"{self.namespace}:messages:{sender_agent_id}:{run_id}"

    def message_ids(self, sender_agent_id: str, run_id: str) -> str:
        """Key of the ids of the messages in that stream, so that none is in it twice."""
        return f"{self.namespace}:message_ids:{sender_agent_id}:{run_id}"

    def message_senders(self, run_id: str) -> str:
        """Key of the stream that names, once each, the agents that tell anything in a run."""
        return f"{self.namespace}:message_senders:{run_id}"

    @property
    def mailbox_prefix(self) -> str:
        """Prefix of all mailboxes."""
        return f"{self.namespace}:mailbox:"

    def mailbox(self, agent_id: str, run_id: str, reader: str) -> str:
        """Key of what one of an agent's readers has heard of a run, and what it is at."""
        return f"{self.namespace}:mailbox:{agent_id}:{run_id}:{reader}"

    def mailbox_leases(self, agent_id: str, run_id: str, reader: str) -> str:
        """Key of the messages that are handed out to that reader, by the end of their lease."""
        return f"{self.namespace}:mailbox_leases:{agent_id}:{run_id}:{reader}"

    @property
    def dead_letters(self) -> str:
        """Key of the stream of records that could not be stored."""
        return f"{self.namespace}:dead_letters"

    @property
    def dead_letter_digests(self) -> str:
        """Key of the digests of the dead letters, so that none is listed twice."""
        return f"{self.namespace}:dead_letter_digests"


def namespace_of(key: str) -> str:
    """The namespace of a key, or of an index, by its name."""
    return key.partition(":")[0]


def drill_namespace(namespace: str) -> str:
    """Namespace that the drills of a memory restore into; nobody names one so by chance."""
    return f"{DRILL_PREFIX}{hashlib.sha256(namespace.encode()).hexdigest()[:16]}"


# --- vectors -------------------------------------------------------------------------------------------------


def vector_field(kind: str, encoder_id: str) -> str:
    """Field of a record's hash that holds its vector; `kind` is STATE_VECTOR or CONCEPT_VECTOR."""
    return f"{kind}:{encoder_id}"


def vector_attribute(encoder_id: str) -> str:
    """Name of an encoder's vector in queries.

    It differs by encoder: the server resolves the filters of all indexes over a prefix in one table of names, so a
    name that two of them share would let one encoder's records into the other's index.
    """
    return f"vector_{hashlib.blake2b(encoder_id.encode(), digest_size=6).hexdigest()}"


# --- tags ----------------------------------------------------------------------------------------------------


def scope_tag(agent_id: str | None = None, product_id: str | None = None, regime: str | None = None) -> str | None:
    """The one tag that stands for a combination of agent, product and regime; None where none is given.

    A filter on three fields costs seven times as much as one tag that holds all three (0.87 ms against 0.12 ms on
    100,000 records), so every combination that a query may ask for is a tag of its own.
    """
    code = None if regime is None else _REGIME_CODES[regime]
    given = [(letter, value) for letter, value in zip("apr", (agent_id, product_id, code), strict=True) if value]
    if not given:
        return None
    return f"{''.join(letter for letter, _ in given)}={':'.join(value for _, value in given)}"


def phase_tag(phase: str) -> str:
    """Tag of a market phase."""
    return f"h={phase}"


def source_tag(source: str) -> str:
    """Tag of a source."""
    return f"s={source}"


def run_tag(run_id: str) -> str:
    """Tag of a run."""
    return f"n={run_id}"


def experience_tags(memory: EpisodicMemory) -> str:
    """All tags of an experience, as its scope field holds them."""
    agent, product, regime = memory.agent_id, memory.product_id, _REGIME_CODES[memory.regime]
    return (
        f"a={agent},p={product},r={regime},ap={agent}:{product},ar={agent}:{regime},pr={product}:{regime},"
        f"apr={agent}:{product}:{regime},h={memory.market_phase},s={memory.source},n={memory.run_id}"
    )


def semantic_tag(kind: str, line: str, product_id: str | None = None, regime: str | None = None) -> str:
    """The one tag that stands for a kind and line of semantic memory, a product and a regime where they are given."""
    tag = f"{kind}:{line}"
    if product_id:
        tag += f"|p={product_id}"
    if regime:
        tag += f"|r={regime}"
    return tag


def semantic_tags(kind: str, line: str, product_ids: tuple[str, ...], regime: str | None) -> str:
    """All tags of a semantic memory, as its scope field holds them."""
    tags = [semantic_tag(kind, line)]
    if regime:
        tags.append(semantic_tag(kind, line, regime=regime))
    for product in product_ids:
        tags.append(semantic_tag(kind, line, product))
        if regime:
            tags.append(semantic_tag(kind, line, product, regime))
    return TAG_SEPARATOR.join(tags)
