"""OpenEnv interface: any lamer_envs environment behind OpenEnv's server, and a typed client for it.

What must stay true: the interface adds no rule. One WebSocket connection is one session with its own state; reset,
step and state over the wire equal the local environment, and the turn budget ends an episode as `truncated`. What a
client sends is data: bounded in size, never a path, and refused with one clear line. Sessions are bounded in number,
idle time and age. Beyond this machine the server starts only with an API key.

Needs the extra `openenv`, in an environment of its own: OpenEnv needs version 1 of `mcp`, vLLM version 2.
API: https://huggingface.co/docs/openenv/en/reference/core
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import ipaddress
import json
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server import Action, ConcurrencyConfig, Environment, Observation, create_fastapi_app
from openenv.core.env_server import State as OpenEnvState
from openenv.core.env_server.types import EnvironmentMetadata, ServerMode
from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamer_envs.base import Env, State, Step
from lamer_envs.errors import EnvError, EnvParameterError, RemoteEnvError, SessionError
from lamer_envs.registry import make
from lamer_envs.splits import split_seeds

MAX_TEXT_CHARS = 20_000
"""Longest action text that is taken; the environment itself looks at MAX_ACTION_CHARS of it."""
MAX_MESSAGE_BYTES = 1 << 20
MAX_SEED = 2**63 - 1
SPLIT_TASKS = 10_000
"""Tasks of a split that have an index; seeds are endless."""
DEFAULT_SESSIONS = 64
_SPARE_CONNECTIONS = 32
_RESET_KEYS = ("seed", "episode_id", "split", "index", "instance")


class LamerAction(Action):
    """One turn: what a policy writes inside its answer tag."""

    text: str = Field(max_length=MAX_TEXT_CHARS, description="The action, in the environment's action format")


class LamerObservation(Observation):
    """What a policy reads after `reset` or `step`, with `reward` (None after `reset`) and `done`.

    `metadata` of the first observation of an episode has what a prompt needs: spec, rules, action_format, max_turns.
    """

    text: str = Field(description="What the policy reads")
    valid: bool = Field(description="False if the last action was malformed or inadmissible")
    success: bool = Field(description="True if the episode is won")
    truncated: bool = Field(description="True if the turn budget ended the episode")
    turn: int = Field(description="Turns played in this episode")
    admissible: list[str] | None = Field(description="Every action that would be valid now, None where none are listed")


class LamerState(OpenEnvState):
    """The session: `env_state` is the environment's whole state (None before `reset`), hidden parts included."""

    spec: str = Field(description="`lamer_envs.make(spec)` gives an equal environment")
    seed: int | None = Field(description="Seed of the task, None for an instance")
    max_turns: int = Field(description="Turn budget of an episode")
    env_state: dict[str, Any] | None = Field(description="The environment's JSON state")


def seed_of(env: Env, split: str, index: int) -> int:
    """The seed of a split's task. Raises SessionError for a split or an index that there is not."""
    if split not in env.splits:
        raise SessionError(f"split must be one of {', '.join(env.splits)}, not {str(split)[:40]!r}")
    if type(index) is not int or not 0 <= index < SPLIT_TASKS:
        raise SessionError(f"index must be an integer from 0 to {SPLIT_TASKS - 1}, not {str(index)[:40]}")
    return split_seeds(env).seed(split, index)


class LamerEnvironment(Environment[LamerAction, LamerObservation, LamerState]):
    """One session of an environment. `env` is immutable, so that all sessions share it; the state is this session's."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env: Env, max_turns: int) -> None:
        super().__init__()
        self._env, self._max_turns = env, max_turns
        self._state: State | None = None
        self._seed: int | None = None
        self._episode: str | None = None
        self._turn = 0
        self._over = False

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        instance: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> LamerObservation:
        """Start an episode of the task of `seed` (0 without one), of task `index` of `split`, or of an `instance`.

        Raises SessionError for other arguments and InstanceError for an instance that cannot be played.
        """
        if unknown:
            raise SessionError(f"reset takes {', '.join(_RESET_KEYS)}, not {min(unknown)[:40]!r}")
        if sum(given is not None for given in (seed, split, instance)) > 1 or (split is None) != (index is None):
            raise SessionError("reset takes one of: seed, split with index, instance")
        if episode_id is not None and not (isinstance(episode_id, str) and len(episode_id) <= 255):
            raise SessionError("episode_id must be text of at most 255 characters")
        if instance is not None:
            if not isinstance(instance, dict):  # a text would be a path of this machine
                raise SessionError(f"instance must be a JSON object, not {type(instance).__name__}")
            state = self._env.load(instance)
        else:
            if split is not None and index is not None:
                seed = seed_of(self._env, split, index)
            seed = 0 if seed is None else seed
            if type(seed) is not int or not 0 <= seed <= MAX_SEED:
                raise SessionError(f"seed must be an integer from 0 to {MAX_SEED}, not {str(seed)[:40]!r}")
            state = self._env.reset(seed)
        self._state, self._seed = state, seed
        self._episode = str(uuid.uuid4()) if episode_id is None else episode_id
        self._turn, self._over = 0, False
        shown = self._shown(state, self._env.observe(state), valid=True, success=False, truncated=False)
        shown.metadata = {
            "spec": self._env.spec,
            "rules": self._env.rules,
            "action_format": self._env.action_format,
            "max_turns": self._max_turns,
        }
        return shown

    def step(self, action: LamerAction, timeout_s: float | None = None, **unknown: Any) -> LamerObservation:
        """Play one turn. Raises SessionError before the first `reset` and after the end of an episode."""
        if self._state is None:
            raise SessionError("there is no episode: call reset before step")
        if self._over:
            raise SessionError("the episode is over: call reset before step")
        step: Step = self._env.step(self._state, action.text)
        self._state = step.state
        self._turn += 1
        truncated = not step.done and self._turn >= self._max_turns
        self._over = step.done or truncated
        shown = self._shown(step.state, step.observation, step.valid, step.success, truncated)
        shown.reward, shown.done = float(step.reward), self._over
        return shown

    @property
    def state(self) -> LamerState:
        return LamerState(
            episode_id=self._episode,
            step_count=self._turn,
            spec=self._env.spec,
            seed=self._seed,
            max_turns=self._max_turns,
            env_state=self._state,
        )

    def list_splits(self) -> list[dict[str, str]]:
        """The splits, for OpenEnv's task API; `reset(split=..., index=...)` plays one of their tasks."""
        types = {"train": "train", "test": "test"}
        return [{"name": split, "type": types.get(split, "validation")} for split in self._env.splits]

    def num_tasks(self, split: str) -> int:
        seed_of(self._env, split, 0)  # refuses an unknown split
        return SPLIT_TASKS

    async def get_task(self, split: str, index: int) -> dict[str, Any]:
        seed = await asyncio.to_thread(seed_of, self._env, split, index)
        return {"id": f"{split}-{index}", "split": split, "index": index, "seed": seed}

    def get_metadata(self) -> EnvironmentMetadata:
        return EnvironmentMetadata(
            name=self._env.spec, description=f"{self._env.rules}\n\n{self._env.action_format}", version="1"
        )

    def _shown(self, state: State, text: str, valid: bool, success: bool, truncated: bool) -> LamerObservation:
        return LamerObservation(
            text=text,
            valid=valid,
            success=success,
            truncated=truncated,
            turn=self._turn,
            admissible=self._env.admissible(state) if self._env.offers("admissible") else None,
        )


class _Guard:
    """ASGI middleware in front of OpenEnv's routes: who may call, how much, and how long a session lives."""

    def __init__(self, app: ASGIApp, api_key: str | None, idle_seconds: float, session_seconds: float) -> None:
        self._app, self._idle, self._age = app, idle_seconds, session_seconds
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif (refusal := self._refusal(scope)) is not None:
            status, code, message = refusal
            if scope["type"] == "websocket":  # before the handshake: the client sees HTTP 403
                await send({"type": "websocket.close", "code": 1008, "reason": code})
            else:
                await JSONResponse({"code": code, "message": message}, status)(scope, receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            await self._session(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = dict(scope["headers"])
        if scope["path"] == "/mcp":
            return 404, "NOT_FOUND", "this environment has no tools; play it over /ws"
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc.encode("latin-1") != headers.get(b"host"):
            return 403, "FOREIGN_ORIGIN", "a page of another site may not call this server"
        keyed = self._key is not None and scope["path"] != "/health"
        if keyed and not hmac.compare_digest(headers.get(b"authorization", b""), self._key or b""):
            return 401, "UNAUTHORIZED", "send the server's API key as `Authorization: Bearer KEY`"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            length = headers.get(b"content-length", b"")
            if not length.isdigit():
                return 411, "LENGTH_REQUIRED", "a request needs its Content-Length"
            if len(length) > 18 or int(length) > MAX_MESSAGE_BYTES:
                return 413, "TOO_LARGE", f"a request may have at most {MAX_MESSAGE_BYTES} bytes"
        return None

    async def _session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket whose peer is silent for too long, or that is too old, is told so and closed."""
        last = time.monotonic() + self._age

        async def bounded() -> Message:
            left = last - time.monotonic()
            try:
                return await asyncio.wait_for(receive(), max(0.0, min(self._idle, left)))
            except TimeoutError:
                why = f"idle for {self._idle:g} s" if self._idle < left else f"{self._age:g} s old"
                error = {"code": "SESSION_EXPIRED", "message": f"the session was {why} and is closed; connect again"}
                await send({"type": "websocket.send", "text": json.dumps({"type": "error", "data": error})})
                await send({"type": "websocket.close", "code": 1001, "reason": "session expired"})
                return {"type": "websocket.disconnect", "code": 1001}

        await self._app(scope, bounded, send)


def create_app(
    env: Env | str,
    *,
    api_key: str | None = None,
    max_turns: int | None = None,
    max_sessions: int = DEFAULT_SESSIONS,
    idle_seconds: float = 600.0,
    session_seconds: float = 6 * 3600.0,
) -> FastAPI:
    """OpenEnv's application around `env` (an Env, or the spec of one), for any ASGI server.

    `max_sessions` connections play at once; one closes after `idle_seconds` without a message and at the latest after
    `session_seconds`. With `api_key` every request but `/health` must carry it. Raises EnvParameterError.
    """
    task = make(env) if isinstance(env, str) else env
    budget = task.max_turns if max_turns is None else max_turns
    if budget < 1 or max_sessions < 1:
        raise EnvParameterError(f"max_turns and max_sessions must be at least 1, not {budget} and {max_sessions}")
    if not (idle_seconds > 0 and session_seconds > 0):
        raise EnvParameterError("idle_seconds and session_seconds must be more than 0")
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise EnvParameterError("the API key must be printable ASCII characters, and not empty")
    task.reset(0)  # what is built once per process is built now, and missing data is found now
    app: FastAPI = create_fastapi_app(
        functools.partial(LamerEnvironment, task, budget),
        LamerAction,
        LamerObservation,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=max_sessions),
        env_name=task.name,
        state_cls=LamerState,
        mode=ServerMode.SIMULATION,
    )
    app.add_exception_handler(EnvError, _told)
    app.add_middleware(_Guard, api_key=api_key, idle_seconds=idle_seconds, session_seconds=session_seconds)
    return app


async def _told(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"code": type(error).__name__, "message": str(error)}, 400)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class EnvServer:
    """An environment served on a port of its own: `run()` until a signal, or `with EnvServer(...) as server`.

    Listens as soon as it exists; port 0 takes a free one. `limits` are those of `create_app`. Raises
    EnvParameterError, also for a host beyond this machine without an API key. Traffic is not encrypted: put a TLS
    proxy in front of a server that others reach.
    """

    def __init__(
        self,
        env: Env | str,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        api_key: str | None = None,
        max_sessions: int = DEFAULT_SESSIONS,
        **limits: Any,
    ) -> None:
        if not api_key and not is_loopback(host):
            raise EnvParameterError(f"{host} can be reached from other machines: set an API key, or use 127.0.0.1")
        app = create_app(env, api_key=api_key, max_sessions=max_sessions, **limits)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise EnvParameterError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._thread: threading.Thread | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                ws_max_size=MAX_MESSAGE_BYTES,
                limit_concurrency=max_sessions + _SPARE_CONNECTIONS,
                timeout_graceful_shutdown=5,
            )
        )

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        with self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask the server to end; returns at once."""
        self._server.should_exit = True

    def __enter__(self) -> EnvServer:
        self._thread = threading.Thread(target=self.run, name="lamer-env-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()


class LamerEnvClient(EnvClient[LamerAction, LamerObservation, LamerState]):
    """Client of one session; async, or `.sync()` for plain calls.

    `reset(seed=7)`, `reset(split="test", index=0)` and `reset(instance={...})` start an episode, `step` takes text or a
    LamerAction, `state()` has the environment's whole state. A refusal by the server is a RemoteEnvError with its code.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        super().__init__(base_url=base_url, headers=sent, **options)

    def _step_payload(self, action: LamerAction | str) -> dict[str, Any]:
        turn = LamerAction(text=action) if isinstance(action, str) else action
        payload: dict[str, Any] = turn.model_dump()
        return payload

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[LamerObservation]:
        reward, done = payload.get("reward"), bool(payload.get("done"))
        observation = LamerObservation(**payload["observation"], reward=reward, done=done)
        return StepResult(observation, reward, done, observation.metadata)

    def _parse_state(self, payload: dict[str, Any]) -> LamerState:
        return LamerState(**payload)

    async def _receive(self) -> dict[str, Any]:
        """OpenEnv's own turns an error frame into a RuntimeError with the code in its text."""
        response: dict[str, Any] = await super()._receive()
        if response.get("type") == "error":
            data = response.get("data", {})
            raise RemoteEnvError(str(data.get("code", "UNKNOWN")), str(data.get("message", "no message")))
        return response
