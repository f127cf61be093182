"""Work pools: where runs happen. A process pool is this machine's; Docker and Kubernetes pools lie anywhere.

The base job templates are the files in `deployments/pools`. Nothing secret is in them, nor in the variables of a
deployment: runs elsewhere read secrets from files that are mounted into them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from deployments import results
from deployments.local import EXTRA_LOGGERS
from memory.errors import CoinswarmError
from memory.settings import Settings

PoolType = Literal["process", "docker", "kubernetes"]
POOL_TYPES: tuple[PoolType, ...] = get_args(PoolType)
_HOST = re.compile(r"\[([^\]]+)\]|([^:\[\]]+)")
TEMPLATES = Path(__file__).parent / "pools"
LONGEST_POOL = 100
"""Characters of a pool's name, which is a part of URLs, and of lines in the UI and in logs."""
_NOT_IN_POOL = "/%&<>?#\\"
"""What Prefect refuses in a name, or what ends or escapes a part of a URL."""
_OWN = frozenset(
    {
        *("home", "namespace", "start_timeout_s", "prefect_api_url", "history", "data_roots", "heartbeat_s"),
        "schedule_training",
    }
)
"""Settings of one machine, of `deploy` alone, or that a run is told otherwise."""


class WorkPoolError(CoinswarmError):
    """A work pool that cannot be, or whose runs could not work with what is configured."""


def default_pool(pool_type: PoolType) -> str:
    """Name of the work pool of a type where none is given."""
    return "coinswarm" if pool_type == "process" else f"coinswarm-{pool_type}"


def checked_pool(text: str | None, pool_type: PoolType) -> str:
    """A pool's name of the command line, or the default of its type where none is given.

    Raises
    ------
    WorkPoolError
        A name that Prefect would not take.
    """
    if text is None:
        return default_pool(pool_type)
    shown = text if len(text) <= LONGEST_POOL else f"{text[:LONGEST_POOL]}..."
    held = sorted({character for character in text if character in _NOT_IN_POOL or not character.isprintable()})
    if not text.strip("' \"."):
        problem = "it is empty but for spaces, quotes and dots" if text else "it is empty"
    elif len(text) > LONGEST_POOL:
        problem = f"it has {len(text):,} characters, and may have {LONGEST_POOL}"
    elif held:
        problem = f"it holds {' '.join(map(repr, held))}"
    elif text.lower().startswith("prefect"):
        problem = "Prefect keeps names that begin with its own for itself"
    else:
        return text
    raise WorkPoolError(
        f"{shown!r} cannot be the name of a work pool: {problem}.",
        remedy=f"Name another with --pool, or leave it out for {default_pool(pool_type)}.",
    )


def checked_type(text: str) -> PoolType:
    """A pool's type of the command line.

    Raises
    ------
    WorkPoolError
        There is no such type.
    """
    if text not in POOL_TYPES:
        raise WorkPoolError(
            f"there is no work pool of type {text!r}.", remedy=f"Choose one of {', '.join(POOL_TYPES)}."
        )
    return text


def template(pool_type: PoolType, path: Path | None = None) -> dict[str, Any]:
    """The base job template of a type, or the one in a file.

    Raises
    ------
    WorkPoolError
        The file cannot be read, or is no such template.
    """
    source = path or TEMPLATES / f"{pool_type}.json"
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkPoolError(
            f"{source} is no base job template: {error}.", remedy=f"Begin with a copy of {TEMPLATES}/{pool_type}.json."
        ) from error
    named = isinstance(found, dict) and set(found) == {"job_configuration", "variables"}
    if not isinstance(found, dict) or not named or not all(isinstance(part, dict) for part in found.values()):
        raise WorkPoolError(
            f"{source} is no base job template: it must hold job_configuration and variables, both objects.",
            remedy=f"Begin with a copy of {TEMPLATES}/{pool_type}.json.",
        )
    return found


def job_variables(settings: Settings, pool_type: PoolType) -> dict[str, Any]:
    """What each run of a deployment is given beside the pool's own variables: nothing secret.

    A process inherits the worker's environment. Runs elsewhere are given all settings that are set here, secrets and
    those of this machine left out, so that what is learned does not depend on where it ran.
    """
    environment = {
        # A run that is given parameters of its own without a namespace works on that of its deployment.
        "COINSWARM_NAMESPACE": settings.namespace,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(settings.heartbeat_s),
        "PREFECT_LOGGING_EXTRA_LOGGERS": EXTRA_LOGGERS,
        # Without this a run that cannot reach the server would quietly start one of its own.
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        **results.environment(settings),
    }
    if pool_type != "process":
        environment |= _shared_settings(settings)
    return {"env": environment}


def _shared_settings(settings: Settings) -> dict[str, str]:
    found = {}
    for name in sorted(settings.model_fields_set - _OWN):
        value = getattr(settings, name)
        if value is None or isinstance(value, SecretStr):
            continue
        found[f"COINSWARM_{name.upper()}"] = json.dumps(value) if isinstance(value, dict) else str(value)
    return found


def check_reach(settings: Settings, pool_type: PoolType, base: Mapping[str, Any] | None = None) -> None:
    """Refuse a pool whose runs, in containers, could not reach what is configured; a process reaches all of it.

    Parameters
    ----------
    base
        Base job template of the pool, whose volumes outlive a container; the project's own where None.

    Raises
    ------
    WorkPoolError
        Names all settings that serve one machine only.
    """
    if pool_type == "process":
        return
    problems = [
        *(_unreachable("COINSWARM_REDIS_URL", _revealed(settings.redis_url), "embedded Redis serves one machine")),
        *(
            _unreachable(
                "COINSWARM_DATABASE_URL", _revealed(settings.database_url), "embedded Postgres serves one machine"
            )
        ),
        *(
            _unreachable(
                "COINSWARM_PREFECT_API_URL", settings.prefect_api_url, "an embedded Prefect server serves one machine"
            )
        ),
    ]
    if "@" in urlsplit(settings.archive_url or "").netloc:
        problems.append("COINSWARM_ARCHIVE_URL: it holds credentials, which a deployment would show")
    problems += _unkept(settings, base or template(pool_type), pool_type)
    if problems:
        raise WorkPoolError(
            f"runs of a {pool_type} pool could not work with what is configured here: {'; '.join(problems)}.",
            remedy="Set each to a place that the containers reach, such as a folder in a volume of the template, and "
            "without credentials where it is no secret, or use --type process.",
        )


def _unkept(settings: Settings, base: Mapping[str, Any], pool_type: PoolType) -> Iterator[str]:
    """What would go with a container: archive, snapshots, results, and the home, where no volume holds them."""
    kept = _volumes(base, pool_type)
    for variable, url, what in (
        ("COINSWARM_ARCHIVE_URL", settings.archive_url, "the archive"),
        ("COINSWARM_BACKUP_URL", settings.backup_url, "snapshots"),
    ):
        if url is None:
            yield f"{variable}: not set, and the home that {what} would lie in is this machine's"
        elif not _lies_in(folder := _folder(url), kept):
            yield f"{variable}: no volume of the template holds {folder}"
    if settings.results_url is None:
        yield "COINSWARM_RESULTS_URL: not set, and results would stay in a container that goes"
    elif not _lies_in(folder := results.local_folder(settings), kept):
        yield f"COINSWARM_RESULTS_URL: no volume of the template holds {folder}"
    home = _given(base, "env", {}).get("COINSWARM_HOME", "")
    if not _lies_in(Path(home), kept):
        yield f"COINSWARM_HOME: policies and reports would go with the container ({home or 'not set in the template'})"


def _folder(url: str) -> Path | None:
    """The folder that a path or an fsspec URL names; None for storage elsewhere."""
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme in ("", "file", "local") else None


def _lies_in(path: Path | None, folders: Iterable[Path]) -> bool:
    """Whether a path lies in one of some folders; what is no path needs none."""
    return path is None or any(path.is_relative_to(folder) for folder in folders)


def _volumes(base: Mapping[str, Any], pool_type: PoolType) -> list[Path]:
    """Folders of the containers of a template that outlive them."""
    if pool_type == "docker":
        # What names no source is new with each container.
        named = [mount.split(":") for mount in _given(base, "volumes", []) if ":" in mount]
        return [Path(parts[1]) for parts in named if "ro" not in ",".join(parts[2:]).split(",")]
    pod = base["job_configuration"].get("job_manifest", {}).get("spec", {}).get("template", {}).get("spec", {})
    passing = {each.get("name") for each in pod.get("volumes", ()) if {"emptyDir", "secret", "configMap"} & set(each)}
    return [
        Path(mount["mountPath"])
        for container in pod.get("containers", ())
        for mount in container.get("volumeMounts", ())
        if mount.get("name") not in passing and not mount.get("readOnly")
    ]


def _given(base: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What a template gives its runs: a value of its own, or the default of the variable."""
    given = base["job_configuration"].get(name)
    if isinstance(given, type(otherwise)):
        return given
    return base["variables"].get("properties", {}).get(name, {}).get("default", otherwise)


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _unreachable(variable: str, url: str | None, embedded: str) -> list[str]:
    """Why containers cannot reach a server, naming the variable and never its URL, which may hold a password."""
    if url is None:
        return [f"{variable}: not set, and {embedded}"]
    hosts = _hosts(url)
    if not hosts or any(host.startswith("/") for host in hosts):
        return [f"{variable}: a socket of this machine"]
    return [f"{variable}: {host} is the container itself there" for host in hosts if _is_loopback(host)][:1]


def _hosts(url: str) -> list[str]:
    """All hosts that a URL names: several of Sentinel and Postgres, of Postgres in an option too; none of a socket."""
    parts = urlsplit(url)
    if parts.scheme.startswith("unix"):
        return []
    named = dict(parse_qsl(parts.query)).get("host") if parts.scheme.startswith("postgres") else None
    places = (named or parts.netloc.rpartition("@")[2]).split(",")
    return [found[1] or found[2] for place in places if (found := _HOST.match(place.strip()))]


def _is_loopback(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
