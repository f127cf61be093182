"""How experiences are laid out in indexes: what the layouts are, when which is chosen, and what creates them.

``single`` is one index that holds all vectors of an encoder. ``partitioned`` is one main index without vectors (tags
and figures: windows are read and counted through it) and one HNSW index for each pair of agent and product, told apart
by key prefix; a question that names agent and product searches a graph in which all or a fifth of the nodes match,
where a graph of everything has a sixtieth.

Pure: names, choices and the text of commands. `memory.store.indexes` sends them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from memory.settings import Settings
from memory.store.keys import STATE_VECTOR, TAG_SEPARATOR, Keys, vector_attribute, vector_field
from memory.store.link import Command
from memory.typed import json_as

Layout = Literal["single", "partitioned"]
SINGLE: Layout = "single"
PARTITIONED: Layout = "partitioned"
FLAT, HNSW = "FLAT", "HNSW"

HNSW_NEIGHBOURS = 16
PARTITION_NEIGHBOURS = 8
"""60 bytes a memory less; among 20,000 real states of one agent and product recall@10 stayed at 1.0000."""
HNSW_BUILD_EFFORT = 200
HNSW_SEARCH_EFFORT = 64
"""At 10, the server's default, recall on clustered data was 0.88; at 50 it was 0.997."""

SINGLE_UP_TO = 250_000
"""Memories up to which `auto` keeps a single index: beyond, an exact search of an agent, product and regime (a sixtieth
of five agents, three products and four regimes) takes more than a millisecond; up to there it is exact, builds ten
times faster and takes a quarter less memory."""


@dataclass(frozen=True, slots=True)
class IndexSchema:
    """How the experiences of an encoder are indexed.

    Attributes
    ----------
    name
        Name of the index; of the main one where the layout is partitioned.
    vector_field, vector_attribute
        Field of the record's hash that holds the vector; its name in queries.
    algorithm, vector_type, dimension
        FLAT or HNSW; FLOAT32 or FLOAT16; length of the vectors.
    encoder_id
        Encoder of the vectors.
    layout
        ``single`` or ``partitioned``.
    generation
        Number of this way of indexing within the encoder: 0, then one more each time it is changed.
    """

    name: str
    vector_field: str
    vector_attribute: str
    algorithm: str
    vector_type: str
    dimension: int
    encoder_id: str = ""
    layout: Layout = SINGLE
    generation: int = 0

    @property
    def partitioned(self) -> bool:
        """Whether the vectors lie in an index for each agent and product."""
        return self.layout == PARTITIONED

    def describe(self) -> str:
        """The choices that a person makes, such as ``partitioned HNSW FLOAT16``."""
        return f"{self.layout} {self.algorithm} {self.vector_type}"

    def same_choices(self, other: IndexSchema) -> bool:
        """Whether the other is indexed alike, whatever its generation."""
        return self.describe() == other.describe() and self.dimension == other.dimension


@dataclass(frozen=True, slots=True)
class SearchTarget:
    """One index that a question has to ask, and how.

    Attributes
    ----------
    index, vector_attribute
        Where; the vector's name in the query.
    clause
        Goes behind ``$vector`` inside the brackets of a KNN that has a filter: how the server combines the two. The
        server refuses it where the filter is ``*``: leave it out there.
    exact_clause
        In its place where fewer than k came: then all that the filter lets through is compared, so that fewer than k
        means that there are no more. Equal to `clause` where the search is exact already.
    """

    index: str
    vector_attribute: str
    clause: str = ""
    exact_clause: str = ""


@dataclass(frozen=True, slots=True)
class WriteRules:
    """What a writer has to do for its records to be in every index that is asked, or will be.

    Attributes
    ----------
    schema
        The index that questions use.
    shadow
        An index that is kept beside it: the next one while it is built, the one before until nobody asks it any more.
        Its field of the hash, where it has one of its own, is written too.
    successor
        Encoder into which the experiences are encoded anew; what is recorded meanwhile is listed for that.
    epoch
        Changes with each of these. It is compared in the step that stores a record: rules that were overtaken store
        nothing.
    """

    schema: IndexSchema
    shadow: IndexSchema | None = None
    successor: str | None = None
    epoch: str = ""

    @property
    def schemas(self) -> tuple[IndexSchema, ...]:
        """The schemas to write for."""
        return (self.schema,) if self.shadow is None else (self.schema, self.shadow)

    def vector_fields(self) -> tuple[tuple[str, str], ...]:
        """Fields that hold a vector, and its type in each; that of the schema in use comes first."""
        return tuple({schema.vector_field: schema.vector_type for schema in self.schemas}.items())


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of hashes that is indexed by encoder: what agents lived through, or what they share.

    Attributes
    ----------
    name
        ``episodic`` or ``shared``.
    prefix, alias
        Prefix of the hashes; alias of the index of the namespace's current encoder.
    further
        Fields of its main index beside those that all experiences have.
    """

    keys: Keys
    name: Literal["episodic", "shared"]
    prefix: str
    alias: str
    further: tuple[Command, ...] = ()

    def key(self, part: str, encoder_id: str) -> str:
        """Where a part of what is known of an encoder's index lies: schema, shadow, epoch, todo or job."""
        return self.keys.index_state(part, encoder_id if self.name == "episodic" else f"{self.name}:{encoder_id}")

    def pairs_key(self, schema: IndexSchema) -> str:
        """Key of the set of the pairs (``agent:product``) that a partitioned schema has an index for."""
        return self.key(f"pairs:{schema.generation}", schema.encoder_id)

    def index_name(self, suffix: str) -> str:
        """Name of an index; the suffix is the encoder's id, with the generation where it is not the first."""
        return self.keys.episodic_index(suffix) if self.name == "episodic" else self.keys.shared_index(suffix)


def episodic_family(keys: Keys) -> Family:
    """What agents lived through."""
    return Family(keys, "episodic", keys.episodic_prefix, keys.episodic_alias)


def shared_family(keys: Keys) -> Family:
    """What agents share with one another; thousands, not millions, so never partitioned."""
    return Family(keys, "shared", keys.shared_prefix, keys.shared_alias, (("quality", "NUMERIC"),))


def choose(settings: Settings) -> tuple[Layout, str]:
    """Layout and algorithm for a new index by the settings."""
    layout = settings.index_layout
    if layout == "auto":
        layout = PARTITIONED if settings.expected_memories > SINGLE_UP_TO else SINGLE
    return (PARTITIONED, HNSW) if layout == PARTITIONED else (SINGLE, settings.vector_algorithm)


def plan_schema(
    family: Family,
    encoder_id: str,
    dimension: int,
    *,
    layout: Layout,
    algorithm: str,
    vector_type: str,
    generation: int = 0,
    reuse: IndexSchema | None = None,
) -> IndexSchema:
    """The schema of an encoder's index that is to be built.

    Parameters
    ----------
    generation
        Indexes of later generations have names of their own.
    reuse
        Schema in use: where the vectors are of the same type, its field of the hash serves the new one as well.
    """
    suffix = encoder_id if generation == 0 else f"{encoder_id}:{generation}"
    if reuse is not None and reuse.vector_type == vector_type and reuse.dimension == dimension:
        field, attribute = reuse.vector_field, reuse.vector_attribute
    else:
        field, attribute = vector_field(STATE_VECTOR, suffix), vector_attribute(suffix)
    return IndexSchema(
        name=family.index_name(suffix),
        vector_field=field,
        vector_attribute=attribute,
        algorithm=HNSW if layout == PARTITIONED else algorithm,
        vector_type=vector_type,
        dimension=dimension,
        encoder_id=encoder_id,
        layout=layout,
        generation=generation,
    )


def partition_name(schema: IndexSchema, agent_id: str, product_id: str) -> str:
    """Name of the index of one agent and product. Ids hold no colon, so no two names are alike."""
    return f"{schema.name}:{agent_id}:{product_id}"


def decode_schema(packed: bytes, encoder_id: str) -> IndexSchema:
    """A stored schema; those that older versions stored do not say whose they are."""
    schema = json_as(IndexSchema, packed)
    return schema if schema.encoder_id else replace(schema, encoder_id=encoder_id)


# --- commands ------------------------------------------------------------------------------------------------

_READ: tuple[Command, ...] = (
    ("scope", "TAG", "SEPARATOR", TAG_SEPARATOR, "CASESENSITIVE"),
    ("timestamp", "NUMERIC"),
    ("known_at", "NUMERIC"),
)
"""What both questions and readers of windows filter by."""
_FILTERED: tuple[Command, ...] = (*_READ, ("reward", "NUMERIC"))
"""What questions filter by."""
_COUNTED = (("recorded_at", "NUMERIC"),)
"""What only windows are read and counted by."""


def vector_definition(schema: IndexSchema) -> Command:
    """The part of FT.CREATE that indexes the vectors."""
    attributes: list[Any] = ["TYPE", schema.vector_type, "DIM", schema.dimension, "DISTANCE_METRIC", "COSINE"]
    if schema.algorithm == HNSW:
        neighbours = PARTITION_NEIGHBOURS if schema.partitioned else HNSW_NEIGHBOURS
        attributes += ["M", neighbours, "EF_CONSTRUCTION", HNSW_BUILD_EFFORT, "EF_RUNTIME", HNSW_SEARCH_EFFORT]
    return (
        *(schema.vector_field, "AS", schema.vector_attribute, "VECTOR"),
        *(schema.algorithm, len(attributes), *attributes),
    )


def create_index(
    name: str, prefix: str, attribute: str, fields: Iterable[Command], *, holds_all_from_now_on: bool = False
) -> Command:
    """FT.CREATE of an index of the hashes under a prefix that hold a vector.

    Parameters
    ----------
    attribute
        Name of the vector, which must be among the fields: hashes without it stay out.
    holds_all_from_now_on
        Nothing that belongs in it is stored yet: the keys are not looked through (seconds for a million).
    """
    return (
        *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, prefix, "FILTER", f"exists(@{attribute})"),
        *(("SKIPINITIALSCAN",) if holds_all_from_now_on else ()),
        "SCHEMA",
        *(part for field in fields for part in field),
    )


@dataclass(frozen=True, slots=True)
class Definition:
    """What an index takes in, and what it knows of it.

    Attributes
    ----------
    name, prefix, attribute
        Its name; prefix of the keys that belong in it; name of the vector, without which a hash stays out.
    fields
        As FT.CREATE takes them.
    """

    name: str
    prefix: str
    attribute: str
    fields: tuple[Command, ...]

    @property
    def condition(self) -> str:
        """What a hash must meet."""
        return f"exists(@{self.attribute})"

    def create(self, *, holds_all_from_now_on: bool = False) -> Command:
        """FT.CREATE; see `create_index`."""
        return create_index(
            self.name, self.prefix, self.attribute, self.fields, holds_all_from_now_on=holds_all_from_now_on
        )


def main_definition(family: Family, schema: IndexSchema) -> Definition:
    """The index that all experiences of an encoder are in.

    Partitioned, the vector is named but not indexed: its name is what keeps other encoders' records out.
    """
    vector, fields = vector_definition(schema), _FILTERED
    if schema.partitioned:
        vector = (schema.vector_field, "AS", schema.vector_attribute, "TAG", "NOINDEX")
        fields = _READ
    fields = (*fields, *_COUNTED, *family.further, vector)
    return Definition(schema.name, family.prefix, schema.vector_attribute, fields)


def partition_definition(family: Family, schema: IndexSchema, agent_id: str, product_id: str) -> Definition:
    """The index of one agent and product."""
    return Definition(
        partition_name(schema, agent_id, product_id),
        family.keys.episodic_pair_prefix(agent_id, product_id),
        schema.vector_attribute,
        (*_FILTERED, vector_definition(schema)),
    )


def create_main(family: Family, schema: IndexSchema) -> Command:
    """FT.CREATE of the index that all experiences of an encoder are in."""
    return main_definition(family, schema).create()


def create_partition(
    family: Family, schema: IndexSchema, agent_id: str, product_id: str, *, holds_all_from_now_on: bool = False
) -> Command:
    """FT.CREATE of the index of one agent and product."""
    definition = partition_definition(family, schema, agent_id, product_id)
    return definition.create(holds_all_from_now_on=holds_all_from_now_on)


def described(field: Command) -> tuple[str, dict[str, Any]]:
    """Name of a field in queries, and what FT.INFO says of it where it is as FT.CREATE was told."""
    identifier, attribute, (kind, *options) = (field[0], field[0], field[1:])
    if kind == "AS":
        attribute, (kind, *options) = options[0], options[1:]
    facts: dict[str, Any] = {"identifier": identifier, "type": kind}
    if kind == "VECTOR":
        algorithm, _, *pairs = options
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        facts |= {"algorithm": algorithm, "data_type": given["TYPE"], "dim": given["DIM"]}
        facts["distance_metric"] = given["DISTANCE_METRIC"]
    elif "SEPARATOR" in options:
        facts["SEPARATOR"] = options[options.index("SEPARATOR") + 1]
    return str(attribute), facts


# --- searching -----------------------------------------------------------------------------------------------

EXACT = " HYBRID_POLICY ADHOC_BF"


def search_target(schema: IndexSchema, index: str) -> SearchTarget:
    """How an index of a schema is asked.

    The choice between walking the graph and comparing all that the filter lets through is left to the server: on
    129,600 records of one agent and product it took the graph for regimes of a sixth to a third of them (1.1 ms; all
    of them compared: 10 ms) and compared all for one of 3 % (1.3 ms; by the graph: 28 ms). Forced batches gain nothing
    there, and took 50 ms to 2 s where `as_of` hid nearly everything.
    """
    if schema.algorithm == FLAT:
        return SearchTarget(index, schema.vector_attribute)
    return SearchTarget(index, schema.vector_attribute, "", EXACT)


def stored_vector_type(packed: bytes, dimension: int) -> str:
    """Type of a vector inside a body, by its length: it stays as it was packed when the index's type changes."""
    return "FLOAT16" if len(packed) == 2 * dimension else "FLOAT32"
