"""What Redis holds of a knowledge line when a publication begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from memory.store.fence import Fence
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.manifest import read_manifest
from memory.store.staging import document_key, remove_leftovers, stored_versions, unlink_commands
from memory.store.versions import Versions

_EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Held:
    """What Redis holds of a line.

    Attributes
    ----------
    stamp
        As it is stored; None where there is none.
    versions
        Those that the manifest lists.
    times
        By kind, when snapshots were published, milliseconds since 1970.
    expired
        By kind, when the last version that has expired ended.
    aliases
        Ids that memories had before, with those that they have.
    live
        Whether somebody may read the line.
    """

    stamp: bytes | None
    versions: Versions
    times: dict[str, set[int]]
    expired: dict[str, int]
    aliases: dict[str, str]
    live: bool

    def of_kinds(self, kinds: Collection[str]) -> Versions:
        """The versions of some kinds."""
        return {key: version for key, version in self.versions.items() if key.kind in kinds}


async def hold(link: RedisLink, keys: Keys, fence: Fence, line: str, token: int, *, whole: bool) -> Held:
    """What Redis holds of a line, rid of what killed publications left.

    Where the line is replaced `whole`, documents that nothing lists go too, which takes a look at every key.

    Raises
    ------
    FencedOutError
        `token` is not the one announced last.
    """
    await fence.ensure(token)
    stamp, times, aliases, lines = await link.pipeline(
        [
            ("GET", keys.semantic_stamp(line)),
            ("HGETALL", keys.semantic_publications(line)),
            ("HGETALL", keys.memory_aliases(line)),
            ("HVALS", keys.current_line),
        ],
        transaction=True,
    )
    versions = await read_manifest(link, keys, line)
    await remove_leftovers(link, keys, fence, line, token, versions)
    if whole:
        orphans = [key for key in await stored_versions(link, keys, line) if key not in versions]
        for command in unlink_commands([document_key(keys, key, line) for key in orphans]):
            await fence.write([command], token)
    published: dict[str, set[int]] = {}
    expired: dict[str, int] = {}
    for name, value in times.items():
        kind, _, time = name.decode().partition(":")
        if kind == _EXPIRED:
            expired[time] = int(value)
        else:
            published.setdefault(kind, set()).add(int(time))
    live = stamp is not None or line.encode() in lines
    named = {old.decode(): new.decode() for old, new in aliases.items()}
    return Held(stamp, versions, published, expired, named, live)


def time_fields(times: Mapping[str, set[int]], expired: Mapping[str, int]) -> dict[str, int]:
    """When snapshots were published, as far as versions could still begin or end there, and what has expired."""
    fields = {f"{kind}:{time}": 1 for kind, own in times.items() for time in own if time > expired.get(kind, time - 1)}
    return fields | {f"{_EXPIRED}:{kind}": until for kind, until in expired.items()}
