"""What a server's refusals and failures mean, as errors that say what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError

LOST = (RedisConnectionError, RedisTimeoutError, ConnectionError, OSError, asyncio.IncompleteReadError)
"""The connection failed, or could not be opened."""
RIGHTS = "coinswarm acl makes users with all rights that they need."

_NO_TLS = ("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "RECORD_LAYER_FAILURE")
_NO_CERTIFICATE = ("NO_CERTIFICATE_OR_CRL_FOUND", "PEM_LIB", "NO_START_LINE", "KEY_VALUES_MISMATCH")
_SHOWN = 200
_ANNOTATION = " of pipeline caused error: "
_COMMAND_DENIED = re.compile(r"User (\S+) has no permissions to run the '([^']+)' command")
_SCRIPT_DENIED = "ACL failure in script: "


def is_busy(error: BaseException) -> bool:
    """Whether the server has run nothing because a script keeps it busy: it will, once that has ended."""
    return isinstance(error, ResponseError) and _said(error).startswith("BUSY ")


def takes_no_writes(error: BaseException) -> bool:
    """Whether the server is a replica: one that was the primary before, perhaps, whose address leads elsewhere now."""
    return isinstance(error, ReadOnlyError | MasterDownError)


def refused_connection(error: BaseException, address: str) -> ServerUnsuitableError | None:
    """The error of a caller whose connections are refused and will be: by whom, and why; None for any other failure."""
    # While connecting, the client wraps what the server or the TLS layer said.
    reasons = (error, error.__cause__, error.__context__)
    if any(isinstance(reason, AuthenticationError) for reason in reasons):
        return ServerUnsuitableError(
            f"the Redis server at {address} refused the user or password.",
            remedy="Correct them in COINSWARM_REDIS_URL, or in the file that COINSWARM_REDIS_URL_FILE names.",
        )
    unread = next((reason for reason in reasons if _is_unread_certificate(reason, address)), None)
    if unread is not None:
        why = getattr(unread, "reason", None) or getattr(unread, "strerror", None) or type(unread).__name__
        return ServerUnsuitableError(
            f"a file of certificates or keys that the URL of Redis at {address} names cannot be read ({why}).",
            remedy="Correct ssl_ca_certs, ssl_certfile and ssl_keyfile in it: PEM files that this user may read.",
        )
    untrusted = next((reason for reason in reasons if isinstance(reason, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return ServerUnsuitableError(
            f"the certificate of the Redis server at {address} is not trusted: {untrusted.verify_message.rstrip('.')}.",
            remedy="Name its authority in the URL (?ssl_ca_certs=/path/ca.pem), and its host as its certificate does.",
        )
    tls = next((reason for reason in reasons if isinstance(reason, ssl.SSLError)), None)
    if tls is not None and tls.reason in _NO_TLS:
        return ServerUnsuitableError(
            f"the Redis server at {address} does not speak TLS with this client ({tls.reason}).",
            remedy="Use redis:// where it speaks none; else see which versions it takes, and whether it asks for ours.",
        )
    return None


def _is_unread_certificate(reason: BaseException | None, address: str) -> bool:
    """Whether a connection failed before it began, over a file that its URL names."""
    if isinstance(reason, ssl.SSLError):
        return reason.reason in _NO_CERTIFICATE
    files = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    return address.startswith("rediss") and isinstance(reason, files)


def no_answer(address: str, limit_s: float) -> StoreUnavailableError:
    """The error of a caller whose deadline passed before an answer came."""
    speaks = ", speaks TLS" if address.startswith("rediss") else ""  # One that speaks none waits for more, as we do.
    return StoreUnavailableError(
        f"Redis at {address} did not answer within {limit_s:g} s.",
        remedy=f"Check that it runs{speaks} and is not overloaded, or raise COINSWARM_REDIS_TIMEOUT_S.",
    )


def unreachable(error: BaseException, address: str) -> StoreUnavailableError:
    """The error of a caller whose server was not reached before its deadline."""
    if isinstance(error, BusyLoadingError):
        return StoreUnavailableError(
            f"Redis at {address} is still reading its data.",
            remedy="Ask again when it has, or raise COINSWARM_REDIS_TIMEOUT_S: millions of records take minutes.",
        )
    if isinstance(error, MasterNotFoundError):
        return StoreUnavailableError(
            f"no Sentinel of {address} answers, or knows a primary of that service that is up.",
            remedy="Check that they run, and their configuration's name of the service (SENTINEL MASTERS).",
        )
    if "max number of clients" in f"{error} {error.__cause__}":
        return StoreUnavailableError(
            f"Redis at {address} takes no further connection: its maxclients is reached.",
            remedy="Raise maxclients there, or close clients that are not needed.",
        )
    return StoreUnavailableError(
        f"Redis at {address} cannot be reached ({type(error).__name__}).",
        remedy=f"Check that it runs and that COINSWARM_REDIS_URL names it{tls_hint(error, address)}; what was stored "
        "is safe, and sending the same again stores nothing twice.",
    )


def tls_hint(error: BaseException, address: str) -> str:
    """What to add to "check its URL" where a server took a connection without TLS, and then did not go on with it."""
    nobody = ConnectionRefusedError | FileNotFoundError | socket.gaierror
    if not address.startswith("redis://") or any(
        isinstance(reason, nobody) for reason in (error, error.__cause__, error.__context__)
    ):
        return ""
    return " (with rediss:// where it speaks TLS)"


def translated(error: Exception, address: str, *, user: str = "", command: str = "") -> Exception:
    """The error that a caller meets for one of the server's; the very same where nothing more is known of it.

    Parameters
    ----------
    user, command
        Who asked, and what, where that is known: of keys that a user may not use, the server names neither.
    """
    said = _said(error)
    if isinstance(error, NoPermissionError) or _SCRIPT_DENIED in said:
        return _denied(said, address, user, command)
    if isinstance(error, OutOfMemoryError):
        return StoreUnavailableError(
            f"Redis at {address} is full.",
            remedy="Raise its maxmemory, or prune older memories (prune_memories).",
        )
    if isinstance(error, MasterDownError):
        return StoreUnavailableError(
            f"Redis at {address} is a replica that has lost its primary, and answers nothing.",
            remedy="Check which server is the primary, and that COINSWARM_REDIS_URL names it.",
        )
    if isinstance(error, ReadOnlyError) or said.startswith(("MISCONF", "NOREPLICAS")):
        return StoreUnavailableError(
            f"Redis at {address} takes no writes: {said[:_SHOWN].rstrip('.')}.",
            remedy="Check its disk, its log and which server is the primary.",
        )
    if isinstance(error, NoScriptError):
        return StoreUnavailableError(
            f"Redis at {address} forgot a script between being given it and running it.",
            remedy="See to it that nobody runs SCRIPT FLUSH there, and ask again.",
        )
    if is_busy(error):
        return StoreUnavailableError(
            f"Redis at {address} runs a script that does not end.",
            remedy="Wait for it, or end it there: SCRIPT KILL.",
        )
    if isinstance(error, ResponseError) and "Timeout limit" in said:
        return StoreUnavailableError(
            f"a search on Redis at {address} took too long.",
            remedy="Narrow the filter, use HNSW for large scopes, or raise COINSWARM_REDIS_TIMEOUT_S.",
        )
    return error


def _denied(said: str, address: str, user: str, command: str) -> AccessDeniedError:
    """Names the right that is missing; of keys the server does not say which."""
    who = f"the user {user} of Redis at {address}" if user else f"the user of Redis at {address}"
    match = _COMMAND_DENIED.search(said)
    if match is not None:
        denied, right = match[1], match[2].lower()
        return AccessDeniedError(
            f"the user {denied} of Redis at {address} may not run {right.upper().replace('|', ' ')}.",
            remedy=f"Allow it there: ACL SETUSER {denied} +{right}; {RIGHTS}",
        )
    if "access a key" in said:
        return AccessDeniedError(
            f"{who} may not use a key or an index that {command or 'it'} needs.",
            remedy="Use the user that is meant for this, or give it the key there (ACL SETUSER "
            f"{user or 'USER'} ~KEY; ACL LOG names what was refused); {RIGHTS}",
        )
    return AccessDeniedError(
        f"{who} lacks a right: {said[:_SHOWN].rstrip('.')}.",
        remedy=f"Give it that right there (ACL SETUSER); {RIGHTS}",
    )


def _said(error: BaseException) -> str:
    """What the server said, without what the client writes before it where a command of a transaction was refused."""
    said = str(error)
    if not isinstance(error, RedisError) or _ANNOTATION not in said:
        return said
    text = said.rpartition(_ANNOTATION)[2]
    # The client for asyncio writes a tuple there, the other one what the server said.
    return text.removeprefix("(")[1:].removesuffix(",)")[:-1] if text.startswith("(") else text
