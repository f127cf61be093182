"""A real link with latency: what passes through is held back for a given time each way, in order, and nothing else.

The delay lies between bytes coming in and the same bytes going out, so any number of bytes are under way at once, as on
a long cable. Listens on the loopback or on a unix socket; leads to either. Can be cut, and stopped like a hung host.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import selectors
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType


class LatencyProxy:
    """Leads to a server by a link with latency.

    Parameters
    ----------
    target
        Path of the server's unix socket, or its port on 127.0.0.1.
    delay_s
        Time that each byte takes, one way.
    listen
        Path of a unix socket to listen on; a free port of 127.0.0.1 where None.

    Attributes
    ----------
    url
        Where clients of Redis connect to.
    port
        Port listened on; None for a unix socket.
    connections
        Connections made so far.
    bytes_up, bytes_down
        Bytes towards the server, and from it.
    """

    def __init__(self, target: Path | int, delay_s: float, listen: Path | None = None) -> None:
        self._target = target
        self.delay_s = delay_s
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._links: set[_Pipe] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self.url = ""
        self.port: int | None = None
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0

    async def __aenter__(self) -> LatencyProxy:
        loop = asyncio.get_running_loop()
        if self._listen is not None:
            self._server = await loop.create_unix_server(lambda: _Pipe(self, None), str(self._listen))
            self.url = f"unix://{self._listen}"
        else:
            self._server = await loop.create_server(lambda: _Pipe(self, None), "127.0.0.1", self.port or 0)
            self.port = self._server.sockets[0].getsockname()[1]
            self.url = f"redis://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for pipe in list(self._links):
            if pipe.task is not None:
                await asyncio.wait([pipe.task])
        if self._server is not None:
            await self._server.wait_closed()

    def cut(self, *, refuse: bool = False) -> None:
        """Break all connections; with `refuse` new ones are broken at once, until `mend`."""
        self._refusing = refuse
        for pipe in list(self._links):
            pipe.abort()

    def mend(self) -> None:
        """Accept connections, and let bytes pass."""
        self._refusing = False
        self._passing.set()

    def stall(self) -> None:
        """Let nothing pass any more, as if the other side hung; connections stay open, until `mend`."""
        self._passing.clear()

    def freeze(self) -> None:
        """Let nothing pass over the connections that there are, for good; new ones are not concerned."""
        for pipe in self._links:
            pipe.frozen = True

    def lead_to(self, target: Path | int) -> None:
        """Lead new connections to another server; those that there are stay where they are."""
        self._target = target

    # --- used by the ends of the pipes -----------------------------------------------------------------------

    def _accept(self, pipe: _Pipe) -> bool:
        if self._refusing:
            return False
        self.connections += 1
        self._links.add(pipe)
        return True


class _Pipe(asyncio.Protocol):
    """One end of a connection; what it receives goes out at the other end, later."""

    def __init__(self, proxy: LatencyProxy, other: _Pipe | None) -> None:
        self._proxy = proxy
        self._other = other
        self._up = other is None
        self._transport: asyncio.Transport | None = None
        self._held: deque[tuple[float, bytes]] = deque()
        self._came = asyncio.Event()
        self.frozen = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._up:
            if not self._proxy._accept(self):
                transport.abort()
                return
            self.task = asyncio.get_running_loop().create_task(self._pass_on())

    def data_received(self, data: bytes) -> None:
        if self._up:
            self._proxy.bytes_up += len(data)
        else:
            self._proxy.bytes_down += len(data)
        self._held.append((asyncio.get_running_loop().time() + self._proxy.delay_s, data))
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort()

    def abort(self) -> None:
        """Break the connection, both ends."""
        for pipe in (self, self._other):
            if pipe is not None and pipe._transport is not None:
                pipe._transport.abort()
            if pipe is not None and pipe.task is not None:
                pipe.task.cancel()

    async def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        proxy, far = self._proxy, _Pipe(self._proxy, self)
        try:
            with contextlib.suppress(OSError):
                if isinstance(proxy._target, int):
                    await loop.create_connection(lambda: far, "127.0.0.1", proxy._target)
                else:
                    await loop.create_unix_connection(lambda: far, str(proxy._target))
                self._other = far
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(self, far))
                    group.create_task(self._carry(far, self))
        finally:
            proxy._links.discard(self)
            self.abort()

    async def _carry(self, source: _Pipe, sink: _Pipe) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not source._held:
                source._came.clear()
                await source._came.wait()
            due, _ = source._held[0]
            if (delay := due - loop.time()) > 0:
                await asyncio.sleep(delay)
            await self._proxy._passing.wait()
            if self.frozen:
                await asyncio.Event().wait()
            now = loop.time()
            ready = []
            while source._held and source._held[0][0] <= now:
                ready.append(source._held.popleft()[1])
            if ready and sink._transport is not None:
                sink._transport.write(b"".join(ready))


@contextlib.asynccontextmanager
async def proxy_process(target: Path | int, delay_s: float) -> AsyncIterator[str]:
    """A proxy in a process of its own, which takes no time from the clients; the URL that leads through it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, str(target), str(delay_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def _serve(target: Path | int, delay_s: float) -> None:
    async with LatencyProxy(target, delay_s) as proxy:
        print(proxy.url, flush=True)
        closed = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(closed), sys.stdin)
        await closed.read()


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="path of a unix socket, or a port")
    parser.add_argument("delay_s", type=float)
    arguments = parser.parse_args()
    target = int(arguments.target) if arguments.target.isdigit() else Path(arguments.target)
    # epoll waits whole milliseconds, select microseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(target, arguments.delay_s))


if __name__ == "__main__":
    main()
