"""A web application on a port of this machine: who may reach it, how it starts and how it ends.

What must stay true: beyond this machine it starts only where a key is asked for; where none is, no page that a browser
here shows can speak to it either. On SIGINT and SIGTERM it takes no new
request, and what is being answered has some seconds to end.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lamer_graph.errors import ConfigError, MissingLibraryError, ServeError
from lamer_graph.policies.address import is_loopback

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

try:
    import uvicorn
    from starlette.datastructures import Headers

    from lamer_graph.web.http import problem
except ImportError as error:
    raise MissingLibraryError(
        f"servers stand on starlette and uvicorn, which are not here ({error}): pip install 'lamer-graph[web]'"
    ) from error

GRACE_S = 10
"""How long what is being answered has to end, when the server is told to stop."""
MAX_CONNECTIONS = 1024
START_S = 30.0


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `Listening`'s: uvicorn would raise them again once it has ended, and end the process by them."""
        yield


class OfThisMachine:
    """Refuses what a web page sends: a browser reaches loopback for whoever it shows (DNS rebinding, forged posts)."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            places = [f"//{headers.get('host', '')}", *([] if origin is None else [origin])]
            if not all(_here(place) for place in places):
                message = "only programs of this machine may ask where no key is asked for: start it with keys"
                await problem(403, message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _here(place: str) -> bool:
    try:
        return is_loopback(urlsplit(place).hostname or "")
    except ValueError:
        return False


class Listening:
    """An ASGI application that listens at `base_url` from the moment this is made. `run` serves until a signal, `with`
    serves in a thread of its own."""

    def __init__(self, app: Any, host: str, port: int, *, keyed: bool, grace_s: int = GRACE_S) -> None:
        """`keyed` says whether it asks for a key. Raises ConfigError where it does not and others could reach it, and
        where nobody can listen there."""
        if not (keyed or is_loopback(host)):
            raise ConfigError(
                f"{host} can be reached from other machines: ask for a key (LAMER_API_KEY, or --keys where "
                "there is such an option), or listen on 127.0.0.1"
            )
        try:
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{self._socket.getsockname()[1]}"
        if not keyed:
            app = OfThisMachine(app)
        self._thread: threading.Thread | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=grace_s,
            )
        )

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """`run`, in the loop that the application lives in. A second SIGINT waits for nobody."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        if main := threading.current_thread() is threading.main_thread():
            for number in signals:
                loop.add_signal_handler(number, self._server.handle_exit, number, None)
        try:
            with self._socket:
                await self._server.serve(sockets=[self._socket])
        finally:
            if main:
                for number in signals:
                    loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Ask the server to end; returns at once."""
        self._server.should_exit = True

    def __enter__(self) -> Listening:
        self._thread = threading.Thread(target=self.run, name="lamer-web", daemon=True)
        self._thread.start()
        late = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > late:
                raise ServeError(f"the server at {self.base_url} did not start; its error was printed")
            time.sleep(0.01)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
