"""The shared connection: answers belong to their callers, whatever happens to the others."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
import numpy as np
import pytest
from redis.exceptions import AuthenticationError, DataError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.errors import StoreUnavailableError
from memory.store import wire_pool
from memory.store.link import RedisLink
from memory.store.wire import WireConnection, pack_command
from memory.store.wire_pool import WirePool
from tests.memory.retrieval.latency_proxy import LatencyProxy


@pytest.fixture
async def wire(servers: Any) -> AsyncIterator[WireConnection]:
    """An open connection to the shared Redis."""
    connection = await WireConnection.open(servers.redis_url, timeout_s=5)
    yield connection
    await connection.close()


def later(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


# --- packing -------------------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


def test_a_command_is_packed_as_the_protocol_says() -> None:
    assert pack_command(("SET", b"\r\n\x00", 7, 0.1)) == (
        b"*4\r\n$3\r\nSET\r\n$3\r\n\r\n\x00\r\n$1\r\n7\r\n$3\r\n0.1\r\n"
    )


def test_kinds_of_the_plain_types_are_packed_by_their_value() -> None:
    assert pack_command(("X", np.float64(0.5), Colour.RED)) == pack_command(("X", 0.5, "red"))


@pytest.mark.parametrize(
    "bad", [True, None, np.float32(1), np.int64(3), [1], {}, bytearray(b"x"), memoryview(b"x"), object()]
)
def test_what_cannot_be_sent_is_refused(bad: Any) -> None:
    with pytest.raises(DataError, match=type(bad).__name__):
        pack_command(("SET", "key", bad))


async def test_a_command_that_cannot_be_packed_leaves_the_connection_as_it_was(wire: WireConnection) -> None:
    with pytest.raises(DataError):
        wire.send_all([("PING",), ("SET", "key", None)])  # type: ignore[list-item]
    with pytest.raises(DataError):
        wire.send()
    assert wire.pending == 0
    assert await wire.execute("PING") == b"PONG"


# --- answers -------------------------------------------------------------------------------------------------


async def test_answers_come_to_those_who_asked(wire: WireConnection) -> None:
    answers = await asyncio.gather(*(wire.execute("ECHO", str(number)) for number in range(500)))
    assert answers == [str(number).encode() for number in range(500)]


async def test_the_first_command_of_a_turn_leaves_at_once_and_the_others_together(
    wire: WireConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    transport = wire._transport
    assert transport is not None
    send = transport.write
    monkeypatch.setattr(transport, "write", lambda packed: (written.append(packed), send(packed)))
    await asyncio.gather(*(wire.execute("PING") for _ in range(10)))
    assert [packed.count(b"PING") for packed in written] == [1, 9]


async def test_answers_keep_their_types(wire: WireConnection, namespace: str) -> None:
    key = f"{namespace}:hash"
    await wire.execute("HSET", key, "field", b"\xff\x00")
    assert await wire.execute("HGETALL", key) == {b"field": b"\xff\x00"}
    assert await wire.execute("GET", f"{namespace}:nothing") is None
    assert await wire.execute("HLEN", key) == 1


async def test_an_answer_larger_than_the_buffer_comes_whole(wire: WireConnection, namespace: str) -> None:
    value = bytes(range(256)) * 8192
    await wire.execute("SET", f"{namespace}:large", value)
    small, large = await asyncio.gather(wire.execute("PING"), wire.execute("GET", f"{namespace}:large"))
    assert (small, large) == (b"PONG", value)


async def test_a_refusal_meets_its_own_caller_only(wire: WireConnection) -> None:
    futures = wire.send_all([("PING",), ("HGET", "key"), ("EVALSHA", "0" * 40, 0), ("PING",)])
    first, wrong, unknown, last = await asyncio.gather(*futures, return_exceptions=True)
    assert (first, last) == (b"PONG", b"PONG")
    assert isinstance(wrong, ResponseError)
    assert isinstance(unknown, NoScriptError)


async def test_errors_inside_an_answer_stay_in_their_place(wire: WireConnection, namespace: str) -> None:
    key = f"{namespace}:text"
    *_, answer = wire.send_all([("MULTI",), ("SET", key, "x"), ("INCR", key), ("GET", key), ("EXEC",)])
    done, refused, value = await answer
    assert (done, value) == (b"OK", b"x")
    assert isinstance(refused, ResponseError)


async def test_a_cancelled_caller_drops_its_own_answer_only(wire: WireConnection) -> None:
    asking = [asyncio.create_task(wire.execute("ECHO", str(number))) for number in range(5)]
    await asyncio.sleep(0)
    asking[2].cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[:2] + answers[3:] == [b"0", b"1", b"3", b"4"]
    assert isinstance(answers[2], asyncio.CancelledError)
    assert await wire.execute("ECHO", "after") == b"after"


async def test_pushes_come_in_order_with_the_answers(servers: Any, namespace: str) -> None:
    seen: list[Any] = []
    connection = await WireConnection.open(servers.redis_url, timeout_s=5, on_push=seen.append)
    other = await WireConnection.open(servers.redis_url, timeout_s=5)
    await connection.execute("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", f"{namespace}:")
    await other.execute("SET", f"{namespace}:key", "x")
    assert await connection.execute("PING") == b"PONG"
    assert [(kind, keys) for kind, keys in seen] == [(b"invalidate", [f"{namespace}:key".encode()])]
    assert isinstance(seen[0], hiredis.PushNotification)
    await connection.close()
    await other.close()


# --- the end of a connection ---------------------------------------------------------------------------------


async def test_what_waits_fails_when_the_server_dies(own_redis: Any) -> None:
    ended: list[Exception | None] = []
    connection = await WireConnection.open(own_redis.url, timeout_s=5, on_close=ended.append)
    waiting = connection.send_all([("BLPOP", "nothing", 0), ("PING",)])
    await asyncio.sleep(0.05)
    own_redis.kill()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [RedisConnectionError] * 2
    assert connection.closed
    assert len(ended) == 1
    assert ended[0] is not None
    with pytest.raises(RedisConnectionError):
        connection.send("PING")


async def test_closing_fails_what_waits_and_tells_once(servers: Any) -> None:
    ended: list[Exception | None] = []
    connection = await WireConnection.open(servers.redis_url, timeout_s=5, on_close=ended.append)
    waiting = connection.send("BLPOP", "nothing", 0)
    await asyncio.sleep(0)
    await connection.close()
    await connection.close()
    with pytest.raises(RedisConnectionError):
        await waiting
    assert ended == [None]


async def serve(answer: bytes) -> tuple[asyncio.Server, int]:
    """A server that greets, and then says the same to whatever it hears."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        while await reader.read(1 << 16):
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n", b"+ONE\r\n+TWO TOO MANY\r\n"])
async def test_what_is_no_answer_ends_the_connection(nonsense: bytes) -> None:
    server, port = await serve(nonsense)
    ended: list[Exception | None] = []
    connection = await WireConnection.open(f"redis://127.0.0.1:{port}", timeout_s=5, on_close=ended.append)
    connection.send("PING").add_done_callback(lambda future: future.exception())
    while not ended:
        await asyncio.sleep(0.001)
    assert connection.closed
    assert ended[0] is not None
    server.close()


async def test_commands_wait_while_the_server_does_not_read_and_are_all_answered_then(
    wire: WireConnection, namespace: str
) -> None:
    wire.pause_writing()
    waiting = asyncio.create_task(wire.execute("ECHO", "later"))
    sent = wire.send("ECHO", "sent")
    await asyncio.sleep(0.02)
    assert not sent.done()
    wire.resume_writing()
    assert await sent == b"sent"
    assert await waiting == b"later"
    value = b"x" * (1 << 20)  # Sixteen times what a transport takes before it says stop.
    await asyncio.gather(*(wire.execute("SET", f"{namespace}:{number}", value) for number in range(16)))
    assert await wire.execute("EXISTS", *(f"{namespace}:{number}" for number in range(16))) == 16


# --- opening -------------------------------------------------------------------------------------------------


async def test_nobody_there_is_a_connection_error(tmp_path: Path) -> None:
    with pytest.raises(RedisConnectionError):
        await WireConnection.open(f"unix://{tmp_path}/nothing.sock", timeout_s=1)


async def test_a_server_that_does_not_greet_is_a_timeout() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(RedisTimeoutError, match=r"within 0\.05 s"):
        await WireConnection.open(f"redis://127.0.0.1:{port}", timeout_s=0.05)
    server.close()


async def test_user_password_database_and_name_of_the_url_are_used(own_redis: Any) -> None:
    admin = await WireConnection.open(own_redis.url, timeout_s=5)
    await admin.execute("ACL", "SETUSER", "agent", "on", ">p@ss word", "~*", "&*", "+@all")
    await admin.execute("CONFIG", "SET", "requirepass", "root secret")
    path = urlsplit(own_redis.url).path
    connection = await WireConnection.open(f"unix://agent:p%40ss%20word@{path}?db=3&client_name=mine", timeout_s=5)
    described = (await connection.execute("CLIENT", "INFO")).decode()
    assert "user=agent" in described
    assert "db=3" in described
    assert "name=mine" in described
    assert "resp=3" in described
    for url in (f"unix://agent:wrong@{path}", f"unix://{path}"):
        with pytest.raises(AuthenticationError):
            await WireConnection.open(url, timeout_s=5)
    await connection.close()
    await admin.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls_is_spoken_where_the_url_says_so(servers: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await asyncio.to_thread(
        subprocess.run,
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        split = urlsplit(servers.redis_url)
        opening = (
            asyncio.open_unix_connection(split.path)
            if split.scheme == "unix"
            else asyncio.open_connection(split.hostname, split.port or 6379)
        )
        upstream, downstream = await opening

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while chunk := await source.read(1 << 16):
                sink.write(chunk)
            sink.close()

        await asyncio.gather(copy(reader, downstream), copy(upstream, writer))

    server = await asyncio.start_server(relay, "localhost", 0, ssl=context)
    address = f"rediss://localhost:{server.sockets[0].getsockname()[1]}"
    connection = await WireConnection.open(f"{address}?ssl_ca_certs={certificate}", timeout_s=5)
    value = b"x" * 300_000
    assert await connection.execute("ECHO", value) == value
    await connection.close()
    with pytest.raises(RedisConnectionError, match="certificate verify failed"):
        await WireConnection.open(address, timeout_s=5)
    server.close()


# --- the pool ------------------------------------------------------------------------------------------------


async def test_further_connections_are_opened_where_all_are_busy_and_no_more_than_allowed(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=3, timeout_s=5)
    assert await pool.execute(("PING",), later(5)) == b"PONG"
    assert len(pool._open) == 1
    for _ in range(50):
        await asyncio.gather(*(pool.execute(("PING",), later(5)) for _ in range(20)))
    assert len(pool._open) == 3
    await pool.close()


async def test_callers_that_wait_for_the_first_connection_share_it(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=4, timeout_s=5)
    identities = await asyncio.gather(*(pool.execute(("CLIENT", "ID"), later(5)) for _ in range(20)))
    assert len(set(identities)) == 1
    await pool.close()


async def test_a_refused_further_connection_hurts_nobody(own_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_pool, "GROWTH_PAUSE_S", 60.0)
    pool = WirePool(own_redis.url, size=4, timeout_s=5)
    await pool.execute(("CONFIG", "SET", "maxclients", 1), later(5))
    before = await pool.execute(("INFO", "stats"), later(5))
    for _ in range(20):
        answers = await asyncio.gather(*(pool.execute(("PING",), later(5)) for _ in range(10)))
        assert answers == [b"PONG"] * 10
    after = await pool.execute(("INFO", "stats"), later(5))

    def rejected(info: bytes) -> int:
        return int(info.decode().split("rejected_connections:")[1].split()[0])

    assert rejected(after) - rejected(before) == 1
    await pool.close()


async def test_a_connection_that_did_not_answer_in_time_is_replaced_and_its_others_are_answered(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=1, timeout_s=5)
    await pool.execute(("PING",), later(5))
    (slow,) = pool._open
    blocked = asyncio.create_task(pool.execute(("BLPOP", "nothing", 0.3), later(5)))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await pool.execute(("ECHO", "behind"), later(0.05))
    assert await pool.execute(("ECHO", "besides"), later(0.2)) == b"besides"
    assert pool._open != [slow]
    assert not slow.closed
    assert await blocked is None
    await asyncio.sleep(0.01)
    assert slow.closed
    assert pool._retired == []
    await pool.close()


@pytest.mark.parametrize("commands", [1, 3])
async def test_a_connection_that_died_is_replaced_though_no_caller_waits_that_long(
    own_redis: Any, commands: int
) -> None:
    async with LatencyProxy(own_redis.socket, 0.0) as proxy:
        pool = WirePool(proxy.url, size=1, timeout_s=0.3)
        await pool.execute(("PING",), later(5))
        (dead,) = pool._open
        proxy.freeze()

        async def ask() -> Any:
            if commands == 1:
                return await pool.execute(("PING",), later(0.3))
            return (await pool.execute_all([("PING",)] * commands, later(0.3)))[-1]

        answers = []
        for _ in range(30):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    answers.append(await ask())
        assert answers
        assert set(answers) == {b"PONG"}
        assert dead not in pool._open
        assert dead.closed
        await pool.close()


async def test_a_caller_that_leaves_early_costs_no_connection_that_answers(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=1, timeout_s=5)
    await pool.execute(("PING",), later(5))
    (connection,) = pool._open
    asking = [asyncio.create_task(pool.execute(("PING",), later(0.05))) for _ in range(3)]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.sleep(0.1)
    assert pool._open == [connection]
    assert not connection.closed
    await pool.close()


async def test_a_connection_that_died_before_its_first_search_is_replaced(own_redis: Any) -> None:
    async with LatencyProxy(own_redis.socket, 0.0) as proxy:
        pool = WirePool(proxy.url, size=1, timeout_s=0.2)
        await pool.execute(("FT.CREATE", "index", "SCHEMA", "field", "TAG"), later(5))
        proxy.freeze()
        with pytest.raises(TimeoutError):
            await pool.execute(("FT.SEARCH", "index", "*"), later(0.2))
        assert (await pool.execute(("FT.SEARCH", "index", "*"), later(5)))[b"total_results"] == 0
        await pool.close()


async def test_a_pool_that_closes_fails_those_who_wait(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=2, timeout_s=5)
    first = asyncio.create_task(pool.execute(("PING",), later(5)))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(RedisConnectionError):
        await first
    with pytest.raises(RedisConnectionError):
        await pool.execute(("PING",), later(5))


async def test_many_answers_come_in_order_with_the_refusals_among_them(servers: Any) -> None:
    pool = WirePool(servers.redis_url, size=2, timeout_s=5)
    commands: list[tuple[Any, ...]] = [("ECHO", str(number)) for number in range(300)]
    commands[7] = ("HGET", "key")
    answers = await pool.execute_all(commands, later(5))
    refused = answers.pop(7)
    assert isinstance(refused, ResponseError)
    assert answers == [str(number).encode() for number in range(300) if number != 7]
    with pytest.raises(TimeoutError):
        await pool.execute_all([("PING",), ("BLPOP", "nothing", 1), ("PING",)], later(0.05))
    await pool.close()


# --- the link over it ----------------------------------------------------------------------------------------


async def test_a_blocking_command_keeps_nobody_waiting(servers: Any, namespace: str) -> None:
    link = RedisLink(servers.redis_url, timeout_s=2)
    await link.open()
    blocked = asyncio.create_task(link.execute("BLPOP", f"{namespace}:list", 1))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(0.5):
        assert await link.execute("PING") == b"PONG"
    assert not blocked.done()
    await blocked
    await link.close()


async def test_reads_go_on_when_the_server_comes_back_in_time(own_redis: Any) -> None:
    link = RedisLink(own_redis.url, timeout_s=5)
    await link.open()
    await link.execute("SET", "key", "value")
    own_redis.kill()
    reading = [asyncio.create_task(link.execute("GET", "key")) for _ in range(20)]
    piped = asyncio.create_task(link.pipeline([("GET", "key")] * 3))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(own_redis.start)
    assert await asyncio.gather(*reading) == [b"value"] * 20
    assert await piped == [b"value"] * 3
    await link.close()


async def test_what_must_not_be_sent_twice_fails_with_its_connection(own_redis: Any) -> None:
    link = RedisLink(own_redis.url, timeout_s=5)
    await link.open()
    await link.execute("CLIENT", "PAUSE", 2000, "WRITE")
    writing = asyncio.create_task(link.execute("SET", "key", "value", retry=False))
    await asyncio.sleep(0.05)
    own_redis.kill()
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await writing
    await link.close()


async def test_a_caller_that_waits_when_the_link_closes_is_told(servers: Any) -> None:
    link = RedisLink(servers.redis_url, timeout_s=5)
    await link.open()
    waiting = [asyncio.create_task(link.execute("PING")) for _ in range(3)]
    await asyncio.sleep(0)
    await link.close()
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert answer == b"PONG" or isinstance(answer, StoreUnavailableError)
    with pytest.raises(StoreUnavailableError, match="not open"):
        await link.execute("PING")
