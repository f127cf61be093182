"""Where Prefect keeps results: a folder, a bucket, or a block of one's own, as JSON in any case, never as pickle.

What must not be lost is in the ledger and the archive; a result is there so that a person can look at it.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from memory.errors import CoinswarmError
from memory.settings import Settings

BLOCK = "block:"
"""Before the name of a block that somebody made in Prefect."""
_REMOTE_TYPE = "remote-file-system"
SERIALIZER = {"PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}


class ResultsError(CoinswarmError):
    """A place for results that cannot be used."""


def local_folder(settings: Settings) -> Path | None:
    """The folder of results where the setting names one of this machine; None for any other place, or where empty."""
    url = settings.results_url
    if url is None or url.startswith(BLOCK):
        return None
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return Path(parts.path if parts.scheme else url).expanduser().absolute()
    return None


def are_local(settings: Settings) -> bool:
    """Whether results lie on the machine where a run happens to be; so too where nothing is configured."""
    return settings.results_url is None or local_folder(settings) is not None


def block_of(settings: Settings) -> str | None:
    """The Prefect block that keeps results, as TYPE/NAME; None where they are local.

    Raises
    ------
    ResultsError
        The setting begins like the name of a block and is none.
    """
    url = settings.results_url
    if url is None or local_folder(settings) is not None:
        return None
    if url.startswith(BLOCK):
        return _checked_block(url)
    return f"{_REMOTE_TYPE}/coinswarm-results-{settings.namespace}"


def local_environment(settings: Settings) -> dict[str, str]:
    """What a process needs in its environment so that its results go to a folder, where the setting names one."""
    folder = local_folder(settings)
    return {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder)} if folder is not None else {}


def environment(settings: Settings) -> dict[str, str]:
    """What a run of a deployment needs in its environment so that its results go where the setting says, as JSON."""
    found = SERIALIZER | local_environment(settings)
    block = block_of(settings)
    if block is not None:
        found["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] = block
    return found


def save_block(settings: Settings) -> str | None:
    """Make the block on the Prefect server where the setting is a URL; returns its TYPE/NAME, None where there is none.

    Raises
    ------
    ResultsError
        The URL's protocol is unknown here, or a block that is named does not exist.
    """
    name = block_of(settings)
    if name is None or settings.results_url is None:
        return None
    if settings.results_url.startswith(BLOCK):
        _check_block(name)
        return name
    from prefect.filesystems import RemoteFileSystem

    check_place(settings)
    RemoteFileSystem(basepath=settings.results_url).save(name.split("/")[1], overwrite=True, _sync=True)  # type: ignore[call-arg]
    return name


def check_place(settings: Settings) -> None:
    """Raise ResultsError where the URL's protocol is unknown here, or no block is named; no server is asked."""
    if block_of(settings) is None or settings.results_url is None or settings.results_url.startswith(BLOCK):
        return
    import fsspec

    try:
        fsspec.get_filesystem_class(urlsplit(settings.results_url).scheme)
    except (ValueError, ImportError) as error:
        raise ResultsError(
            f"COINSWARM_RESULTS_URL={settings.results_url}: {' '.join(str(error).split())}.",
            remedy="Install the fsspec package of that protocol here and with the workers, or choose another place.",
        ) from error


def _checked_block(url: str) -> str:
    name = url.removeprefix(BLOCK)
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", name):
        raise ResultsError(
            f"COINSWARM_RESULTS_URL={url} names no block.",
            remedy=f"Write {BLOCK}TYPE/NAME, such as {BLOCK}s3-bucket/mine.",
        )
    return name


def _check_block(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    kind, block = name.split("/")
    with get_client(sync_client=True) as client:
        try:
            client.read_block_document_by_name(block, kind, include_secrets=False)
        except ObjectNotFound as error:
            raise ResultsError(
                f"COINSWARM_RESULTS_URL names the block {name}, which the Prefect server does not have.",
                remedy="Create it there first (Blocks in the UI), or name a folder or an fsspec URL.",
            ) from error
