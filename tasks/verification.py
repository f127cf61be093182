"""Comparing what Redis holds with what the ledger says: every difference, named. Nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memory import MemoryConnection
from memory.errors import ArchiveError, NamespaceBusyError
from memory.ledger import EncoderRecord, Ledger
from memory.records import SemanticType, from_ms
from memory.store.codec import ms_rounded_up
from memory.store.encoders import unpack_encoder
from memory.store.manifest import stamp_of
from memory.store.published_windows import PublishedWindows
from memory.store.semantic import expected_contents
from memory.store.staging import Document
from memory.store.versions import VersionKey
from memory.window import Window
from tasks.differences import BEHIND, DAMAGED, EXTRA, LOST, MISSING, OTHER, Difference, Findings
from tasks.fold_plan import plan_fold
from tasks.groups import FOLDS
from tasks.learning import learning_of
from tasks.leftovers import find_leftovers
from tasks.projected import ProjectedKnowledge, ProjectedLine, of_namespace, project
from tasks.retry import may_pass, retried
from tasks.workspace import Workspace, open_workspace

SAME, DIFFERENT = "same", "different"
"""What a comparison comes to."""


def compare(
    workspace: Workspace,
    knowledge: ProjectedKnowledge,
    findings: Findings,
    *,
    held: Workspace | None = None,
    whole: bool = True,
    every_field: bool,
) -> None:
    """Compare all semantic memory of a namespace in Redis with what it is to be.

    Parameters
    ----------
    workspace
        Whose ledger `knowledge` is from.
    held
        Whose Redis is looked at, where that is another namespace.
    whole
        Whether Redis is to hold nothing else.
    every_field
        Read every document; else only lists, stamps and names, which take a few milliseconds.
    """
    ledger = workspace.ledger

    async def look(mem: MemoryConnection) -> None:
        for line in knowledge.lines:
            await _compare_names(mem, line, findings)
            if every_field:
                await _compare_documents(mem, ledger, line, findings)
        await _compare_succession(mem, knowledge, findings)
        await _compare_encoders(mem, knowledge, findings)
        if whole:
            known = {line.name for line in knowledge.lines}
            for name in await mem.semantic.lines():
                if name not in known:
                    findings.add(Difference(EXTRA, "line", name))

    (held or workspace).with_memory(look)


# --- lines -----------------------------------------------------------------------------------------------------


async def _compare_names(mem: MemoryConnection, line: ProjectedLine, findings: Findings) -> None:
    """The stamp, which also says whether the list is as it was published, and the aliases."""
    findings.count("lines")
    stamp = await mem.semantic.stamp(line.name)
    versions = await mem.semantic.snapshots.versions(line.name)
    horizon = await mem.semantic.horizon(line.name)
    if stamp is None:
        findings.add(Difference(MISSING, "stamp", line.name))
    elif stamp.partition(":")[0] != stamp_of(versions, None).digest:
        findings.add(Difference(OTHER, "stamp", line.name, seen="it is not that of the list of versions"))
    elif line.name == line.line and line.until is None and line.stamp not in (None, stamp):
        seen = f"published as {line.stamp}, found {stamp}"
        findings.add(Difference(OTHER, "stamp", line.name, seen=seen))
    if horizon is not None and (line.horizon is None or horizon > line.horizon):
        seen = f"the past until {horizon.isoformat()} has gone"
        findings.add(Difference(OTHER, "stamp", line.name, field="horizon", seen=seen))
    if line.unpublished is None and _in_ms(await mem.semantic.windows(line.name)) != _in_ms(line.published):
        seen = "mem.freshness() does not say what was published"
        findings.add(Difference(OTHER, "windows", line.name, seen=seen))
    aliases = await mem.semantic.aliases(line.name)
    for name in sorted(aliases.keys() | line.aliases.keys()):
        expected, found = line.aliases.get(name), aliases.get(name)
        if expected != found:
            what = MISSING if found is None else EXTRA if expected is None else OTHER
            seen = f"leads to {found}, and is to lead to {expected}"
            findings.add(Difference(what, "aliases", line.name, memory_id=name, seen=seen))


def _in_ms(windows: PublishedWindows) -> dict[SemanticType, dict[Window, int]]:
    """Windows by kind with their times as Redis keeps them, whole milliseconds."""
    return {
        kind: {window: ms_rounded_up(known_at) for window, known_at in known.items()}
        for kind, known in windows.items()
        if known
    }


async def _compare_documents(mem: MemoryConnection, ledger: Ledger, line: ProjectedLine, findings: Findings) -> None:
    """Every field of every version. Holds a digest of each in memory, and the documents that are listed as other."""
    held: dict[VersionKey, bytes] = {}
    async for key, document in mem.semantic.contents(line.name):
        held[key] = _digest(document)
    nothing = _digest({})
    others: dict[VersionKey, Document] = {}
    for key, expected in expected_contents(line.versions(ledger), line.name, line.horizon):
        findings.count("documents")
        found = held.pop(key, None)
        if found is None:
            findings.add(_of_document(MISSING, "list", line, key))
        elif found == nothing:
            findings.add(_of_document(MISSING, "document", line, key))
        elif found != _digest(expected):
            if len(findings.listed) + len(others) < findings.limit:
                others[key] = expected
            else:
                findings.add(_of_document(OTHER, "document", line, key))
    for key in sorted(held):
        findings.add(_of_document(EXTRA, "list", line, key))
    if others:
        async for key, document in mem.semantic.contents(line.name):
            if key in others:
                for name in _other_fields(others[key], document):
                    findings.add(_of_document(OTHER, "document", line, key, name))
    for key in await mem.semantic.orphans(line.name):
        findings.add(_of_document(EXTRA, "document", line, key))


def _digest(document: Mapping[bytes, bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(document.items()):
        for part in (name, value):
            digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def _other_fields(expected: Document, found: Document) -> list[str]:
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return [name.decode(errors="replace") for name in names]


def _of_document(what: str, part: str, line: ProjectedLine, key: VersionKey, name: str = "") -> Difference:
    known = from_ms(key.valid_from_ms)
    windows = [window.name for window, time in line.times.items() if time <= known]
    return Difference(
        what,
        part,
        line.name,
        kind=SemanticType(key.kind).value,
        memory_id=key.memory_id,
        field=name,
        window=windows[-1] if windows else "",
        valid_from=known.isoformat(),
    )


# --- which line is read, and encoders --------------------------------------------------------------------------


async def _compare_succession(mem: MemoryConnection, knowledge: ProjectedKnowledge, findings: Findings) -> None:
    for encoder_id, expected in knowledge.successions.items():
        current = await mem.semantic.current_line(encoder_id)
        if current != expected[-1][1]:
            what = MISSING if current is None else OTHER
            seen = f"{current or 'none'} is read, and {expected[-1][1]} is to be"
            findings.add(Difference(what, "current line", encoder_id, seen=seen))
        found = tuple(await mem.semantic.succession(encoder_id))
        # An encoder that one line alone was ever read for needs no succession.
        if found != (expected if len(expected) > 1 else ()) and found != expected:
            findings.add(Difference(OTHER if found else MISSING, "succession", encoder_id, seen=_shown(found)))


def _shown(succession: tuple[tuple[datetime | None, str], ...]) -> str:
    steps = [f"{line} {'always' if since is None else f'from {since.isoformat()}'}" for since, line in succession]
    return "; ".join(steps) or "none"


async def _compare_encoders(mem: MemoryConnection, knowledge: ProjectedKnowledge, findings: Findings) -> None:
    for encoder_id, kept in knowledge.encoders.items():
        findings.count("encoders")
        found = await mem.encoders.get(encoder_id)
        if found is None or found != unpack_encoder(kept.payload):
            what = MISSING if found is None else OTHER
            findings.add(Difference(what, "encoder", encoder_id, seen=_fitted(kept)))
    if knowledge.current_encoder is not None and await mem.encoders.current() is None:
        findings.add(Difference(MISSING, "current encoder", knowledge.current_encoder))


def _fitted(kept: EncoderRecord) -> str:
    return "" if kept.fitted_until is None else f"fitted on data until {kept.fitted_until.isoformat()}"


# --- the ledger and its archive --------------------------------------------------------------------------------


def check_ledger(workspace: Workspace, knowledge: ProjectedKnowledge, findings: Findings, *, every_byte: bool) -> None:
    """Whether what the ledger holds follows from its newest input, and whether the archives are what it notes.

    Parameters
    ----------
    every_byte
        Hash the archived files and the rows of the ledger; else only their presence and size are looked at.

    Raises
    ------
    ArchiveError
        The place of the archive cannot be reached: nothing is known about the files.
    """
    ledger, digest = workspace.ledger, learning_of(workspace.settings).digest
    for line in knowledge.lines:
        for what, folds in FOLDS.items():
            if ledger.folds.checkpoints(line.line, folds[0]):
                first = plan_fold(ledger, line.line, folds, digest).first
                if first is not None:
                    findings.add(Difference(BEHIND, "fold", line.line, window=first.name, seen=what))
        if line.unpublished is not None:
            findings.add(Difference(BEHIND, "publication", line.line, window=line.unpublished.name))
        refold = ledger.refolds.open(line.line)
        if refold is not None:
            seen = "folding again was interrupted"
            findings.add(Difference(BEHIND, "fold", line.line, window=refold.first.name, seen=seen))
        if every_byte:
            for damage in ledger.damaged(line.line):
                findings.add(Difference(DAMAGED, damage.table, line.line, memory_id=damage.key, seen=damage.what))
    _check_archives(workspace, knowledge, findings, every_byte=every_byte)


def _check_archives(
    workspace: Workspace, knowledge: ProjectedKnowledge, findings: Findings, *, every_byte: bool
) -> None:
    looked_at: set[str] = set()
    for line in knowledge.lines:
        for status in workspace.ledger.windows.list(line.line):
            if status.sealed_since is not None:
                findings.count("sealed windows")
                continue
            for reference in workspace.ledger.windows.archives_of(line.line, status.window):
                if reference.states.path in looked_at:
                    continue
                looked_at.add(reference.states.path)
                findings.count("archives")
                seen = ""
                try:
                    if every_byte:
                        workspace.archive.verify(reference)
                    elif not workspace.archive.exists(reference):
                        seen = f"{reference.states.path} or {reference.experiences.path} is gone or has another size"
                except ArchiveError as error:
                    if may_pass(error):
                        raise
                    seen = error.message
                if seen:
                    findings.add(Difference(LOST, "archive", line.line, window=status.window.name, seen=seen))


# --- the whole -------------------------------------------------------------------------------------------------


@retried()
def verify(namespace: str, *, digest: bool, as_of: datetime | None, into: str | None, limit: int) -> dict[str, Any]:
    """Compare all, while nobody writes; see the flow `verify_memory` for the parameters.

    Raises
    ------
    NamespaceBusyError
        Another run holds the namespace, or held it meanwhile.
    """
    findings = Findings(limit)
    with open_workspace(namespace) as workspace:
        held = None if into in (None, namespace) else of_namespace(workspace, into)
        before = _last_holder(workspace, held)
        knowledge = project(workspace, as_of=as_of, into=None if held is None else into)
        compare(workspace, knowledge, findings, held=held, every_field=digest)
        if held is None and as_of is None:
            check_ledger(workspace, knowledge, findings, every_byte=digest)
        leftovers = find_leftovers(workspace) if held is None and as_of is None else []
        digests = {}
        if digest:
            in_redis = (held or workspace).with_memory(lambda mem: mem.semantic.digest())
            digests = {"ledger_digest": workspace.ledger.digest(namespace).digest, "redis_digest": in_redis}
        if _last_holder(workspace, held) != before:
            raise NamespaceBusyError(
                f"a run wrote to namespace {namespace!r} while it was being compared.", remedy="Compare again."
            )
    return {
        "status": DIFFERENT if findings.total else SAME,
        **findings.as_dict(),
        **digests,
        "leftovers": [leftover.as_dict() for leftover in leftovers],
        "lines": [line.name for line in knowledge.lines],
    }


def _last_holder(workspace: Workspace, held: Workspace | None) -> list[int]:
    """Tokens of those who wrote last; NamespaceBusyError where somebody still does."""
    tokens = []
    for namespace in sorted({workspace.namespace, (held or workspace).namespace}):
        holder = workspace.ledger.fence.holder(namespace)
        if holder is not None and not (holder.released or holder.expired):
            raise NamespaceBusyError(
                f"namespace {namespace!r} is held by run {holder.run_id} ({holder.flow} on {holder.host}, process "
                f"{holder.process_id}), which changes what would be compared.",
                remedy="Let that run finish, then compare.",
            )
        tokens.append(0 if holder is None else holder.token)
    return tokens
