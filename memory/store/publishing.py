"""Publishing: how what was learned becomes what is known, in one step, by the newest run only.

Documents are written beforehand, where nobody sees them (`memory.store.staging`); the step itself moves them to their
places, closes and removes versions, and writes the list of versions with its stamp (`memory.store.manifest`). A reader
sees what was known before the step or what is known after it, never anything in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from memory.errors import InvalidRecordError, StoreUnavailableError
from memory.records import SemanticType
from memory.store.codec import ms_rounded_up
from memory.store.encoders import EncoderRegistry
from memory.store.fence import Fence
from memory.store.held import Held, hold, time_fields
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import Command, Read, RedisLink
from memory.store.manifest import Stamp, hash_commands, manifest_commands, stamp_of
from memory.store.publications import (
    Content,
    Publication,
    SemanticVersion,
    changes_by_memory,
    check_reachable,
    checked_kinds,
    snapshots_of,
)
from memory.store.published_windows import PublishedWindows, snapshot_commands, windows_commands
from memory.store.staging import (
    UNLINK_SIZE,
    Document,
    Staging,
    document,
    document_key,
    in_parts,
    remove_leftovers,
    unlink_commands,
    validity,
)
from memory.store.versions import History, MemoryKey, Version, VersionKey, Versions, expire, republish, revise

PUBLISH_TIMEOUT_S = 120.0
"""Deadline of the step of publication: years of versions may have to be listed again after Redis was lost."""
PUBLISH_ATTEMPTS = 20
"""How often publishing starts again because another task of the same run published meanwhile."""
_ALIASES_A_COMMAND = 500


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What a publication changed.

    Attributes
    ----------
    current
        Memories that are current afterwards.
    added, removed
        Versions that are new; versions that are gone because the past that they came from was replaced.
    closed
        Versions whose validity ended (or ended at another time than before).
    unchanged
        Versions that stayed as they were.
    expired
        Versions that are gone because they ended longer ago than is kept.
    stamp
        What the line is stamped with (`SemanticStore.stamp`); whoever notes it can tell later whether Redis still holds
        what was published.
    """

    current: int
    added: int
    closed: int
    removed: int
    unchanged: int
    expired: int = 0
    stamp: str = ""


@dataclass(slots=True)
class _Plan:
    """What Redis is to hold of a line."""

    after: Versions
    expired: dict[str, int]
    times: dict[str, set[int]]
    aliases: dict[str, str]
    encoder_id: str | None = None
    adopt: bool = True
    windows: list[Command] = field(default_factory=list)
    """What notes the windows, or snapshots, that are published."""
    gone: set[VersionKey] = field(default_factory=set)
    """Versions that have expired."""
    stamp: Stamp = field(default_factory=lambda: Stamp(""))


class _PublishedMeanwhileError(Exception):
    """Another task of the run that holds the token has published, or the server lost what was written beforehand."""


class Publisher:
    """Publishes semantic memories of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys, indexes: Indexes, encoders: EncoderRegistry, fence: Fence) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._encoders = encoders
        self._fence = fence

    # --- what a ledger holds -----------------------------------------------------------------------------------

    async def publish_versions(
        self,
        versions: Iterable[SemanticVersion],
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        since: datetime | None,
        horizon: datetime | None,
        aliases: Mapping[str, str] | None,
        *,
        windows: PublishedWindows | None,
        adopt: bool,
    ) -> PublishReport:
        """Publish changes of memories; see `SemanticStore.publish_versions`."""
        wanted = checked_kinds(kinds)
        noted = {kind: known for kind, known in (windows or {}).items() if kind in wanted}
        since_ms = None if since is None else ms_rounded_up(since)
        horizon_ms = None if horizon is None else ms_rounded_up(horizon)
        held = await hold(self._link, self._keys, self._fence, line, token, whole=since_ms is None)
        if since_ms is not None:
            check_reachable(since_ms, held.expired, wanted, line)
        plan = _Plan(
            after={},
            expired={kind: until for kind, until in held.expired.items() if kind not in wanted or since_ms is not None},
            times={
                kind: {time for time in times if kind not in wanted or (since_ms is not None and time < since_ms)}
                for kind, times in held.times.items()
            },
            aliases=held.aliases if aliases is None else dict(aliases),
            windows=windows_commands(self._keys, line, noted),
            adopt=adopt,
        )
        staging = Staging(self._link, self._keys, self._fence, line, token, live=held.live)
        untouched: dict[MemoryKey, dict[int, Version]] = {}
        for key, version in held.versions.items():
            if key.kind not in wanted:
                plan.after[key] = version
            elif since_ms is not None and key.valid_from_ms < since_ms:
                untouched.setdefault((key.kind, key.memory_id), {})[key.valid_from_ms] = version
        for own in changes_by_memory(versions, line, wanted, since_ms):
            await self._prepare_index(plan, own.contents.values())
            revised = revise(untouched.pop(own.memory, {}), own.changes, since_ms=since_ms)
            for key, version in _keep(plan, own.memory, revised, horizon_ms):
                content = own.contents.get(key.valid_from_ms)
                if content is None:
                    continue  # It began before what is replaced.
                fields = document(content.packed, line, content.encoder_id, key.valid_from_ms, version.valid_to_ms)
                stored = held.versions.get(key)
                if stored is None or stored.digest != version.digest:
                    await staging.add(key, fields)
                elif since_ms is None:
                    await staging.add_where_different(key, fields)
        for memory_key, kept in untouched.items():
            _keep(plan, memory_key, revise(kept, (), since_ms=since_ms), horizon_ms)
        _expire_others(plan, wanted, horizon_ms)
        await staging.finish()
        try:
            return await self._step(line, token, held, plan, staging)
        except _PublishedMeanwhileError:
            raise StoreUnavailableError(
                f"{line} changed while it was being published: by another task of this run, or since Redis was "
                "restarted and lost the last of what was written.",
                remedy="Publish again.",
            ) from None

    # --- snapshots ---------------------------------------------------------------------------------------------

    async def publish(
        self,
        publications: Sequence[Publication],
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        replaces_from_ms: int | None,
        *,
        replaces: bool,
    ) -> PublishReport:
        """Publish in one step; see `SemanticStore.publish` and `publish_history`.

        With `replaces`, every publication from `replaces_from_ms` on (all where None) is replaced by those given.
        """
        wanted = checked_kinds(kinds)
        contents, snapshots = snapshots_of(publications, line, wanted)
        replace_from_ms = (-(2**62) if replaces_from_ms is None else replaces_from_ms) if replaces else None
        for _ in range(PUBLISH_ATTEMPTS):
            held = await hold(
                self._link, self._keys, self._fence, line, token, whole=replaces and replaces_from_ms is None
            )
            plan = _Plan(after={}, expired=dict(held.expired), times=dict(held.times), aliases=held.aliases)
            await self._prepare_index(plan, contents.values())
            if replaces and replaces_from_ms is None:
                plan.expired = {kind: until for kind, until in held.expired.items() if kind not in wanted}
            else:
                touched = [time for times in snapshots.values() for time in times]
                touched += [] if replace_from_ms is None else [replace_from_ms]
                check_reachable(min(touched, default=2**62), held.expired, wanted, line)
            plan.after = {key: version for key, version in held.versions.items() if key.kind not in wanted}
            for kind in sorted(wanted):
                own = held.of_kinds({kind})
                ends = {version.valid_to_ms for version in own.values() if version.valid_to_ms is not None}
                times = {*held.times.get(kind, ()), *(key.valid_from_ms for key in own), *ends}
                result = republish(History(own, tuple(sorted(times))), snapshots[kind], replace_from_ms=replace_from_ms)
                plan.after.update(result.versions)
                plan.times[kind] = set(result.times)
            plan.windows = snapshot_commands(self._keys, line, wanted, snapshots, replace_from_ms)
            staging = Staging(self._link, self._keys, self._fence, line, token, live=held.live)
            await self._stage_contents(staging, held, plan.after, contents, line)
            try:
                return await self._step(line, token, held, plan, staging)
            except _PublishedMeanwhileError:
                continue
        raise StoreUnavailableError(
            f"{line} was published {PUBLISH_ATTEMPTS} times by others while it was being published.",
            remedy="Let the other task finish, then publish again.",
        )

    async def _stage_contents(
        self,
        staging: Staging,
        held: Held,
        after: Versions,
        contents: Mapping[tuple[MemoryKey, bytes], Content],
        line: str,
    ) -> None:
        sources = {((key.kind, key.memory_id), version.digest): key for key, version in held.versions.items()}
        for key, version in after.items():
            stored = held.versions.get(key)
            if stored is not None and stored.digest == version.digest:
                continue
            essence = ((key.kind, key.memory_id), version.digest)
            content = contents.get(essence)
            if content is not None:
                await staging.add(
                    key, document(content.packed, line, content.encoder_id, key.valid_from_ms, version.valid_to_ms)
                )
                continue
            # The content was published at another time before: it moves with its version.
            fields: Document = await self._link.execute("HGETALL", document_key(self._keys, sources[essence], line))
            fields = {name: value for name, value in fields.items() if name not in (b"valid_to", b"current")}
            fields |= {b"valid_from": str(key.valid_from_ms).encode(), **validity(version.valid_to_ms)}
            await staging.add(key, fields)
        await staging.finish()

    # --- the step ----------------------------------------------------------------------------------------------

    async def _prepare_index(self, plan: _Plan, contents: Iterable[Content]) -> None:
        """Note the encoder of what is published, and see to its index; InvalidRecordError where there are two."""
        for content in contents:
            if plan.encoder_id is None:
                plan.encoder_id = content.encoder_id
                await self._indexes.ensure_semantic(
                    content.encoder_id, await self._encoders.dimension(content.encoder_id)
                )
            elif plan.encoder_id != content.encoder_id:
                raise InvalidRecordError(
                    f"memories of the encoders {plan.encoder_id} and {content.encoder_id} are published as one line.",
                    remedy="A knowledge line has one encoder: publish each line by itself.",
                    field="encoder_id",
                )

    async def _step(self, line: str, token: int, held: Held, plan: _Plan, staging: Staging) -> PublishReport:
        """Make what is planned what is known."""
        keys = self._keys
        plan.stamp = stamp_of(plan.after, max(plan.expired.values(), default=None))
        stamp_key = keys.semantic_stamp(line)
        expired = self._unseen(held.versions, plan, line)
        commands = staging.commands()
        commands += self._document_commands(held.versions, plan.after, staging.written, expired, line)
        commands += [("SADD", staging.list_key, *part) for part in in_parts(sorted(expired), UNLINK_SIZE)]
        if held.versions != plan.after or held.stamp != plan.stamp.encode():
            commands += manifest_commands(keys, line, held.versions, plan.after, plan.stamp)
        times = time_fields(held.times, held.expired), time_fields(plan.times, plan.expired)
        commands += hash_commands(keys.semantic_publications(line), *times)
        commands += hash_commands(keys.memory_aliases(line), held.aliases, plan.aliases)
        commands += plan.windows
        if plan.encoder_id is not None and plan.adopt:
            commands.append(("HSETNX", keys.current_line, plan.encoder_id, line))

        async def prepare(read: Read) -> tuple[list[Command], None]:
            await self._fence.check(read, token)
            stamp = await read("GET", stamp_key)
            if stamp != held.stamp and stamp == plan.stamp.encode():
                return [], None  # The step was taken, and its answer lost.
            if stamp != held.stamp or not await staging.is_whole(read):
                raise _PublishedMeanwhileError
            return commands, None

        watched = [keys.fence, keys.semantic_manifest(line), stamp_key, staging.list_key]
        await self._link.transaction(watched, prepare, timeout_s=PUBLISH_TIMEOUT_S)
        if expired:  # Nobody sees them: they go while others are served, or with the next publication.
            await remove_leftovers(self._link, keys, self._fence, line, token, plan.after)
        return _report(held.versions, plan)

    def _unseen(self, before: Versions, plan: _Plan, line: str) -> set[str]:
        """Documents of versions that no question could find any more, since they ended before the past that is kept."""
        ends = {key: before[key].valid_to_ms for key in plan.gone if key in before}
        return {
            document_key(self._keys, key, line)
            for key, end in ends.items()
            if end is not None and end <= plan.expired[key.kind]
        }

    def _document_commands(
        self, before: Versions, after: Versions, written: Collection[VersionKey], unseen: Collection[str], line: str
    ) -> list[Command]:
        """What ends, opens and removes documents that are stored already."""
        commands: list[Command] = []
        for key, version in after.items():
            old = before.get(key)
            if old is None or key in written or old.valid_to_ms == version.valid_to_ms:
                continue
            name = document_key(self._keys, key, line)
            if version.valid_to_ms is None:
                commands += [("HDEL", name, "valid_to"), ("HSET", name, "current", 1)]
            else:
                commands += [("HDEL", name, "current"), ("HSET", name, "valid_to", version.valid_to_ms)]
        removed = {document_key(self._keys, key, line) for key in before if key not in after}
        return commands + unlink_commands(sorted(removed.difference(unseen)))


def _keep(
    plan: _Plan, memory: MemoryKey, revised: Mapping[int, Version], horizon_ms: int | None
) -> Iterable[tuple[VersionKey, Version]]:
    """Enter the versions of a memory into the plan; those that have not expired are returned."""
    own = {VersionKey(*memory, begin): version for begin, version in revised.items()}
    kept, expired_until = expire(own, horizon_ms)
    plan.after.update(kept)
    plan.gone.update(own.keys() - kept.keys())
    if expired_until is not None:
        plan.expired[memory[0]] = max(expired_until, plan.expired.get(memory[0], expired_until))
    return kept.items()


def _expire_others(plan: _Plan, wanted: Collection[SemanticType], horizon_ms: int | None) -> None:
    """Let versions of the kinds that are not published expire too: the line has one past."""
    others: dict[MemoryKey, dict[int, Version]] = {}
    for key, version in plan.after.items():
        if key.kind not in wanted:
            others.setdefault((key.kind, key.memory_id), {})[key.valid_from_ms] = version
    for memory, versions in others.items():
        for begin in versions:
            del plan.after[VersionKey(*memory, begin)]
        _keep(plan, memory, versions, horizon_ms)


def _report(before: Versions, plan: _Plan) -> PublishReport:
    after = plan.after
    both = [key for key in after if key in before]
    gone = [key for key in before if key not in after]
    expired = sum(key in plan.gone for key in gone)
    return PublishReport(
        current=sum(version.valid_to_ms is None for version in after.values()),
        added=len(after) - len(both),
        closed=sum(before[key].valid_to_ms != after[key].valid_to_ms for key in both),
        removed=len(gone) - expired,
        unchanged=sum(before[key] == after[key] for key in both),
        expired=expired,
        stamp=plan.stamp.encode().decode(),
    )
