"""Can everything that is stored be found? Keys against indexes, encoders against records, aliases, refused records."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from memory.commands import command
from memory.records import SemanticType
from memory.store.health_check import Check, OpenMemory, facts_of, fail, ok, warn
from memory.store.health_records import Census, Kind, experience_kinds
from memory.store.indexes import IndexSchema, WriteRules
from memory.store.keys import STATE_VECTOR, scope_tag
from memory.store.layout import Definition, described, main_definition, partition_definition, partition_name
from memory.store.reindex_job import ReindexJob, read_job
from memory.store.scan import select

SHOWN = 3
BUILD_PATIENCE_S = 3.0
BUILD_POLL_S = 0.05
_WITH_VECTOR = (SemanticType.PATTERN, SemanticType.REGIME)


async def check_indexes(mem: OpenMemory, census: Census) -> list[Check]:
    """All checks of a namespace's indexes."""
    encoder_ids = await mem.indexes.encoder_ids()
    names = {name.decode() for name in await mem.link.execute("FT._LIST")}
    found: list[Check] = []
    in_use: list[WriteRules] = []
    kinds = experience_kinds(mem)
    for kind in kinds:
        rules = {encoder_id: await kind.collection.rules(encoder_id) for encoder_id in encoder_ids}
        schemas = {encoder_id: rule.schema for encoder_id, rule in rules.items() if rule is not None}
        in_use += [rule for rule in rules.values() if rule is not None]
        found += await _coverage(mem, kind, schemas, names, census)
        found += await _definitions(mem, kind, schemas, names)
        if kind.name == "episodic":
            found += await _encoder_mix(mem, schemas, names)
    found += await _semantic(mem, encoder_ids, names, census)
    found += await _index_states(mem)
    found += await _aliases(mem, names)
    found += _orphans(mem, encoder_ids, names, in_use)
    jobs = [await read_job(mem.link, kind.collection.family, name) for kind in kinds for name in encoder_ids]
    return [*found, *_changes(mem, [job for job in jobs if job is not None])]


async def _partitions(mem: OpenMemory, schema: IndexSchema) -> list[str]:
    """Names of the indexes of a schema's pairs of agent and product; none where there is one index for all."""
    if not schema.partitioned:
        return []
    _, *parts = mem.indexes.names(schema, await mem.indexes.partitions.reload(schema))
    return parts


async def _is_building(mem: OpenMemory, name: str) -> bool:
    """Whether an index is still being built; a server that has just started says so for a moment."""
    deadline = asyncio.get_running_loop().time() + BUILD_PATIENCE_S
    while int((await mem.link.execute("FT.INFO", name))[b"indexing"]):
        if asyncio.get_running_loop().time() > deadline:
            return True
        await asyncio.sleep(BUILD_POLL_S)
    return False


def _being_built(name: str, building: list[str]) -> Check:
    return warn(name, f"{', '.join(building)} is being built: answers are partial.", "Wait, and run this again.")


async def _documents(mem: OpenMemory, name: str) -> int:
    return int((await mem.link.execute("FT.INFO", name))[b"num_docs"])


async def _coverage(
    mem: OpenMemory, kind: Kind, schemas: dict[str, IndexSchema], names: set[str], census: Census
) -> list[Check]:
    """Whether every record is in an index: keys by prefix against documents, summed over encoders."""
    name = f"{kind.name} index"
    parts = {schema.name: await _partitions(mem, schema) for schema in schemas.values()}
    dropped = sorted({*parts, *(part for own in parts.values() for part in own)} - names)
    if dropped:
        listed = f"{', '.join(dropped[:SHOWN])}{' and more' if len(dropped) > SHOWN else ''}"
        return [
            fail(
                name,
                f"{listed} is missing: its {kind.noun} cannot be found.",
                f"Build it again; what is stored is safe: {_reindexing(mem)}",
            )
        ]
    stored = census.counts[kind.name]
    if not stored and not schemas:
        return [ok(name, f"no {kind.noun} yet")]
    building = [index for main, own in parts.items() for index in (main, *own) if await _is_building(mem, index)]
    if building:
        return [_being_built(name, building)]
    documents = 0
    for schema in schemas.values():
        main, own = schema.name, parts[schema.name]
        # The main index first: what is recorded meanwhile must not look as if a partition lacked it.
        whole = await _documents(mem, main)
        divided = sum([await _documents(mem, part) for part in own])
        if schema.partitioned and divided < whole:
            lacking = f"{whole - divided:,} of {whole:,} {kind.noun} are in no partition of {main}"
            return [fail(name, f"{lacking}: searches do not see them.", await _completing(mem, schema))]
        documents += whole
    number = len(parts) + sum(map(len, parts.values()))
    seen = f"{documents:,} {kind.noun} in {number} {'index' if number == 1 else 'indexes'}"
    if not census.complete:
        return [ok(name, f"{seen}; too many keys to compare them with")]
    # What is recorded meanwhile is in the indexes and not among the keys; the other way round it is missing.
    missing = stored - documents
    if missing <= 0:
        return [ok(name, f"{seen}, {stored:,} keys")]
    encoders = await _encoders_of(mem, census.samples.get(kind.name, []))
    strangers = sorted(set(encoders) - set(schemas))
    if strangers:
        why = f"; the encoder {', '.join(strangers[:SHOWN])} has records and no index"
        ensure = "ensure_episodic" if kind.name == "episodic" else "ensure_shared"
        remedy = (
            f"Build it: mem.indexes.{ensure}({strangers[0]!r}), or remove its records ({kind.noun} of that encoder)."
        )
    else:
        why, remedy = "", f"Look which ones below under 'index failures', then {_reindexing(mem)}"
    return [fail(name, f"{missing:,} of {stored:,} {kind.noun} are in no index{why}.", remedy)]


async def _completing(mem: OpenMemory, schema: IndexSchema) -> str:
    """What makes the partitions of a schema whole: building the first that lacks records again, or all of them."""
    for pair in sorted(await mem.indexes.partitions.reload(schema)):
        part = partition_name(schema, *pair)
        if await mem.reader.count(schema, select(tags=[scope_tag(*pair) or ""])) > await _documents(mem, part):
            return f"FT.DROPINDEX {part} (records stay), then build it again: {_reindexing(mem)}"
    single, partitioned = (_reindexing(mem, layout=layout) for layout in ("single", "partitioned"))
    return f"Some pairs of agent and product are not listed: {single}, then {partitioned}"


async def _definitions(mem: OpenMemory, kind: Kind, schemas: dict[str, IndexSchema], names: set[str]) -> list[Check]:
    """Whether indexes are as they were made: one that was made again by hand may lack what questions filter by."""
    name, family = f"{kind.name} definition", kind.collection.family
    looked_at = 0
    for schema in schemas.values():
        pairs = sorted(await mem.indexes.partitions.reload(schema)) if schema.partitioned else ()
        wanted = [main_definition(family, schema), *(partition_definition(family, schema, *pair) for pair in pairs)]
        for definition in [definition for definition in wanted if definition.name in names]:
            looked_at += 1
            differs = _difference(await mem.link.execute("FT.INFO", definition.name), definition)
            if differs:
                remedy = f"FT.DROPINDEX {definition.name} (records stay), then {_reindexing(mem)}"
                return [fail(name, f"{definition.name} was made by somebody else: {differs}.", remedy)]
    if not looked_at:
        return []
    return [ok(name, f"{looked_at} {'index is' if looked_at == 1 else 'indexes are'} as they were made")]


def _difference(info: Mapping[bytes, Any], wanted: Definition) -> str:
    """What of an index is not as it should be, by its FT.INFO; empty where all is."""
    takes = info[b"index_definition"]
    prefixes = [prefix.decode() for prefix in takes[b"prefixes"]]
    if prefixes != [wanted.prefix]:
        return f"it takes keys that begin with {' or '.join(prefixes)}, not {wanted.prefix}"
    condition = takes.get(b"filter", b"").decode()
    if condition != wanted.condition:
        return f"it takes {condition or 'all of them'}, not {wanted.condition}"
    there = {attribute[b"attribute"].decode(): facts_of(attribute) for attribute in info[b"attributes"]}
    for field in wanted.fields:
        attribute, facts = described(field)
        if attribute not in there:
            return f"it lacks the field {attribute}"
        for fact, value in facts.items():
            found = there[attribute].get(fact)
            found = found.decode() if isinstance(found, bytes) else found
            if found != value:
                return f"{fact} of its field {attribute} is {found}, not {value}"
    return ""


async def _encoders_of(mem: OpenMemory, keys: list[bytes]) -> Counter[str]:
    """Encoders whose vectors some records hold."""
    prefix = f"{STATE_VECTOR}:".encode()
    found: Counter[str] = Counter()
    for names in await mem.link.pipeline([("HKEYS", key) for key in keys]):
        found.update({name[len(prefix) :].decode().split(":")[0] for name in names if name.startswith(prefix)})
    return found


async def _encoder_mix(mem: OpenMemory, schemas: dict[str, IndexSchema], names: set[str]) -> list[Check]:
    """Which encoders' records there are, and whether questions are asked in the one that has them."""
    counts = {
        encoder_id: await mem.reader.count(schema, select())
        for encoder_id, schema in schemas.items()
        if schema.name in names
    }
    counts = {encoder_id: count for encoder_id, count in counts.items() if count}
    current = await mem.indexes.current_encoder()
    if not counts:
        return [ok("encoders", f"current: {current or 'none'}; no experiences yet")]
    listed = ", ".join(f"{encoder_id} {count:,}" for encoder_id, count in sorted(counts.items()))
    seen = f"current: {current or 'none'}; experiences: {listed}"
    most = max(counts, key=lambda encoder_id: (counts[encoder_id], encoder_id))
    if current not in counts and not schemas.get(current or ""):
        return [
            fail(
                "encoders",
                f"{seen}; questions are asked in an encoder of which there are none.",
                f"Make the one with records current: mem.encoders.set_current({most!r}).",
            )
        ]
    unregistered = [encoder_id for encoder_id in sorted(counts) if await mem.encoders.get(encoder_id) is None]
    if unregistered:
        return [
            warn(
                "encoders",
                f"{seen}; {', '.join(unregistered)} is not registered: nobody knows what it was fitted on, so as-of "
                f"questions are not protected from it.",
                "Register it: mem.encoders.register(encoder_id, fitted_until=..., definition=...).",
            )
        ]
    if current not in counts:
        return [
            warn(
                "encoders",
                f"{seen}; the current one has no experiences yet.",
                f"Record with it, or go back: mem.encoders.set_current({most!r}).",
            )
        ]
    return [ok("encoders", seen)]


async def _semantic(mem: OpenMemory, encoder_ids: list[str], names: set[str], census: Census) -> list[Check]:
    """Whether every pattern and regime can be found."""
    stored = sum(census.counts[f"semantic:{kind}"] for kind in _WITH_VECTOR)
    present = [name for name in map(mem.keys.semantic_index, encoder_ids) if name in names]
    if not stored and not present:
        return [ok("semantic index", "no patterns yet")]
    building = [name for name in present if await _is_building(mem, name)]
    if building:
        return [_being_built("semantic index", building)]
    documents = sum([await _documents(mem, name) for name in present])
    if not census.complete or documents >= stored:
        return [ok("semantic index", f"{documents:,} versions of patterns and regimes")]
    return [
        fail(
            "semantic index",
            f"{stored - documents:,} of {stored:,} versions of patterns and regimes are in no index.",
            f"Publish them again: {command('run rebuild_memory', mem.keys.namespace)}",
        )
    ]


async def _index_states(mem: OpenMemory) -> list[Check]:
    """What each index could not take."""
    states = await mem.indexes.health()
    failing = [state for state in states if state.failures]
    if not failing:
        return [ok("index failures", f"none in {len(states)} indexes")]
    found = []
    for state in failing:
        errors = facts_of((await mem.link.execute("FT.INFO", state.name)).get(b"Index Errors", {}))
        key = errors.get("last indexing error key", b"")
        why = errors.get("last indexing error", b"unknown").decode(errors="replace")
        seen = f"{state.name} refused {state.failures:,} records; the last was {key.decode(errors='replace')}: {why}."
        if key and await mem.link.execute("EXISTS", key):
            remedy = f"Remove it (UNLINK {key.decode(errors='replace')}) and record it again with the right vector."
            found.append(fail("index failures", seen, remedy))
        else:
            found.append(
                warn("index failures", f"{seen} It is gone.", "Find out who writes such records; the count stays.")
            )
    return found


async def _aliases(mem: OpenMemory, names: set[str]) -> list[Check]:
    """Whether the aliases lead to the indexes of the current encoder."""
    current = await mem.indexes.current_encoder()
    if current is None:
        return [ok("aliases", "no encoder yet")]
    episodic = await mem.indexes.current_schema(current)
    shared = await mem.indexes.current_shared_schema(current)
    wanted = {mem.keys.semantic_alias: mem.keys.semantic_index(current)}
    wanted |= {} if episodic is None else {mem.keys.episodic_alias: episodic.name}
    wanted |= {} if shared is None else {mem.keys.shared_alias: shared.name}
    wrong = []
    for alias, index in wanted.items():
        if index not in names:
            continue
        try:
            target = (await mem.link.execute("FT.INFO", alias))[b"index_name"].decode()
        except ResponseError:
            target = "nothing"
        if target != index:
            wrong.append((alias, target, index))
    if not wrong:
        return [ok("aliases", f"lead to the indexes of {current}")]
    alias, target, index = wrong[0]
    return [
        warn(
            "aliases",
            f"{alias} leads to {target}, not to {index}{f'; {len(wrong) - 1} more' if len(wrong) > 1 else ''}.",
            f"FT.ALIASUPDATE {alias} {index}",
        )
    ]


def _orphans(mem: OpenMemory, encoder_ids: list[str], names: set[str], in_use: list[WriteRules]) -> list[Check]:
    """Indexes of the namespace that nobody asks or fills."""
    schemas = [schema for rules in in_use for schema in rules.schemas]
    semantic = {mem.keys.semantic_index(encoder_id) for encoder_id in encoder_ids}
    prefixes = (mem.keys.episodic_index(""), mem.keys.semantic_index(""), mem.keys.shared_index(""))
    found = [
        name
        for name in sorted(names)
        if name.startswith(prefixes) and name not in semantic and not any(_belongs(name, schema) for schema in schemas)
    ]
    if not found:
        return [ok("orphan indexes", "none")]
    return [
        warn(
            "orphan indexes",
            f"{', '.join(found[:SHOWN])}{' and more' if len(found) > SHOWN else ''}: nobody uses it.",
            f"Drop it; records stay: FT.DROPINDEX {found[0]}",
        )
    ]


def _belongs(name: str, schema: IndexSchema) -> bool:
    """Whether an index is a schema's own, or that of one of its pairs."""
    if name == schema.name:
        return True
    pair = name.removeprefix(f"{schema.name}:")
    return schema.partitioned and pair != name and pair.count(":") == 1


def _changes(mem: OpenMemory, jobs: list[ReindexJob]) -> list[Check]:
    """Changes of an index that are under way, or were left half done."""
    if not jobs:
        return [ok("reindexing", "nothing under way")]
    listed = ", ".join(f"{job.source.name} to {job.target.name} ({job.phase})" for job in jobs)
    return [
        warn(
            "reindexing",
            f"{listed}: a change is under way, or was stopped.",
            f"Where none runs, {_taking_up(mem, jobs[0])}",
        )
    ]


def _reindexing(mem: OpenMemory, **parameters: str) -> str:
    """The command that builds the indexes again."""
    words = ["run reindex_memory", *(f"--param {name}={value}" for name, value in parameters.items())]
    return command(" ".join(words), mem.keys.namespace)


def _taking_up(mem: OpenMemory, job: ReindexJob) -> str:
    """The command that takes up a change that was stopped."""
    target = job.target
    if job.phase == "abandoned":
        return _reindexing(mem, abandon="true")
    if not job.changes_encoder:
        choices = {"layout": target.layout, "algorithm": target.algorithm, "vector_type": target.vector_type}
        return _reindexing(mem, **choices)
    if job.phase == "filling":
        return _reindexing(mem, encoder=target.encoder_id)
    return (
        f"restart clients of {job.source.encoder_id} with {target.encoder_id}, then "
        f"{_reindexing(mem, encoder=target.encoder_id, remove_old='true')}"
    )
