"""Plays scripts over HTTP: the simulated endpoint itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiohttp import web

from harness.errors import UsageError
from harness.kinds import Json
from harness.simulator.behaviour import Behaviour, Fault, Model
from harness.simulator.script import (
    Ask,
    Refusal,
    Script,
    parse_ask,
    refusal,
    stream_script,
    whole_body,
    write_answer,
)
from harness.simulator.truth import Truth, TruthLog

CLIENT_GONE = 499  # nginx's status for it, and AIPerf's
_BACKLOG = 4096  # a sweep's high points open their connections all at once
_MAX_BODY_BYTES = 64 * 2**20
_SHUTDOWN_S = 0.2  # requests still being served then are cancelled


@dataclass(slots=True)
class _Visit:
    """One chat request while it is in the house."""

    request: web.Request
    truth: Truth
    start_s: float  # monotonic; the script's zero
    n_overloads: int  # counted before it came


class Endpoint:
    """The running endpoint: its behaviour, its service slots, and who is in the house."""

    def __init__(self, behaviour: Behaviour, key: str | None, log: TruthLog) -> None:
        self._behaviour = behaviour
        self._key = key
        self._log = log
        n_slots = behaviour.service_slots
        self._slots: AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(n_slots) if n_slots else nullcontext()
        )
        self._n_arrived = 0
        self._n_in_flight = 0
        self._n_in_service = 0
        self._n_overloads = 0
        self._is_revoked = False

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        if self._behaviour.faults.deaf:
            app.router.add_route("*", "/{path:.*}", _never_answer)
            return app
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        return app

    async def health(self, _: web.Request) -> web.Response:
        """Say that the server is up; needs no key."""
        return web.json_response({"status": "ok"})

    async def version(self, _: web.Request) -> web.Response:
        """Say what this is; needs no key."""
        return web.json_response({"version": "simulator"})

    async def models(self, request: web.Request) -> web.Response:
        """List the models."""
        if refused := self._wrong_key(request):
            return _error(refused)
        cards = [self._card(model) for model in self._behaviour.models]
        return web.json_response({"object": "list", "data": cards})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one chat request, and log what was really done."""
        visit = self._arrive(request)
        try:
            response = await self._answer(visit)
            visit.truth.status = response.status
        except (asyncio.CancelledError, ConnectionError):
            visit.truth.status = CLIENT_GONE
            raise
        finally:
            self._n_in_flight -= 1
            self._log.add(visit.truth)
        idle_ms = self._behaviour.faults.close_idle_ms
        if idle_ms is not None:
            await response.prepare(request)
            await response.write_eof()
            asyncio.get_running_loop().call_later(idle_ms / 1e3, _hang_up, request.transport)
        return response

    def _arrive(self, request: web.Request) -> _Visit:
        arrival_ns, start_s = time.time_ns(), time.monotonic()
        before = self._n_overloads
        self._n_in_flight += 1
        limit = self._behaviour.faults.fail_above
        if limit is not None and self._n_in_flight > limit:
            self._n_overloads += 1
        faults = self._behaviour.faults
        if faults.die_after is not None and self._n_arrived >= faults.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.revoke_after is not None and self._n_arrived >= faults.revoke_after:
            self._is_revoked = True
        truth = Truth(
            request_id=request.headers.get("X-Request-ID"),
            ordinal=self._n_arrived,
            arrival_ns=arrival_ns,
            n_in_flight=self._n_in_flight,
        )
        self._n_arrived += 1
        return _Visit(request, truth, start_s, before)

    async def _answer(self, visit: _Visit) -> web.StreamResponse:
        if refused := self._wrong_key(visit.request):
            return _error(refused)
        try:
            ask = parse_ask(await visit.request.read())
        except msgspec.MsgspecError as error:
            return _error(Refusal(400, "invalid_body", str(error)))
        if refused := refusal(ask, self._behaviour):
            return _error(refused)
        fault = self._behaviour.faults.of(visit.truth.ordinal, self._behaviour.seed)
        visit.truth.fault = fault.value
        if failure := self._failure(fault, visit.request):
            return _error(failure)
        if fault is Fault.HANG:
            await asyncio.Event().wait()  # until the client gives up
        async with self._slots:
            return await self._serve(visit, ask, fault)

    async def _serve(self, visit: _Visit, ask: Ask, fault: Fault) -> web.StreamResponse:
        self._n_in_service += 1
        try:
            self._start(visit)
            return await self._speak(visit, ask, fault)
        finally:
            self._n_in_service -= 1

    def _start(self, visit: _Visit) -> None:
        visit.truth.n_in_service = self._n_in_service
        visit.truth.start_ns = visit.truth.arrival_ns
        if self._behaviour.service_slots:  # it may have stood in the queue
            visit.truth.start_ns, visit.start_s = time.time_ns(), time.monotonic()

    async def _speak(self, visit: _Visit, ask: Ask, fault: Fault) -> web.StreamResponse:
        answer = write_answer(ask, self._behaviour, visit.truth.ordinal, int(time.time()))
        visit.truth.prompt_tokens = answer.prompt_tokens
        await _until(visit.start_s + answer.due_s[0])
        if visit.n_overloads != self._n_overloads:
            return _error(_OVERLOADED)
        if ask.stream and not self._behaviour.faults.not_streaming:
            script = stream_script(ask, answer, self._behaviour, fault)
            return await (_play_burst if self._behaviour.burst else _play)(visit, script)
        await _until(visit.start_s + answer.due_s[-1])
        visit.truth.tokens = answer.n_tokens
        visit.truth.first_token_ns = visit.truth.last_token_ns = time.time_ns()
        body = whole_body(answer, self._behaviour, fault)
        return web.Response(body=body, content_type="application/json")

    def _wrong_key(self, request: web.Request) -> Refusal | None:
        if not self._is_revoked and self._key in (None, _key_of(request)):
            return None
        said = f"Incorrect API key provided{self._echo(request)}"
        return Refusal(401, "invalid_api_key", said)

    def _echo(self, request: web.Request) -> str:
        return f": {_key_of(request)}" if self._behaviour.echo_key else ""

    def _failure(self, fault: Fault, request: web.Request) -> Refusal | None:
        faults = self._behaviour.faults
        if fault is Fault.FAIL:
            said = f"Simulated failure{self._echo(request)}"
            return Refusal(faults.fail_status, "simulated_failure", said)
        if fault is Fault.RATE_LIMIT:
            wait = {"Retry-After": str(faults.retry_after_s)}
            return Refusal(429, "rate_limit_exceeded", "Rate limit reached", wait)
        return None

    def _card(self, model: Model) -> dict[str, Json]:
        card: dict[str, Json] = {"id": model.name, "object": "model", "owned_by": "simulator"}
        if model.root:
            card["root"] = model.root
        if self._behaviour.context_tokens:
            card["max_model_len"] = self._behaviour.context_tokens
        return card


async def _never_answer(_: web.Request) -> web.StreamResponse:
    return await asyncio.Future[web.StreamResponse]()  # until the client gives up


def _key_of(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


_OVERLOADED = Refusal(503, "overloaded", "Too many requests in flight")


async def _play(visit: _Visit, script: Script) -> web.StreamResponse:
    """Write each event when it is due; late ones follow without a pause."""
    response, truth = await _open_stream(visit), visit.truth
    for due_s, event in zip(script.due_s, script.events, strict=False):  # a cut script is shorter
        await _until(visit.start_s + due_s)
        await response.write(event)
        truth.last_token_ns = time.time_ns()
        truth.first_token_ns = truth.first_token_ns or truth.last_token_ns
        truth.tokens += 1
    return await _end_stream(visit, response, script)


async def _play_burst(visit: _Visit, script: Script) -> web.StreamResponse:
    """Write all events at once."""
    response = await _open_stream(visit)
    await response.write(b"".join(script.events))
    visit.truth.first_token_ns = visit.truth.last_token_ns = time.time_ns()
    visit.truth.tokens = len(script.events)
    return await _end_stream(visit, response, script)


async def _open_stream(visit: _Visit) -> web.StreamResponse:
    response = web.StreamResponse(headers=_STREAM_HEADERS)
    await response.prepare(visit.request)
    return response


async def _end_stream(
    visit: _Visit, response: web.StreamResponse, script: Script
) -> web.StreamResponse:
    if script.cut:
        _hang_up(visit.request.transport)
    else:
        await response.write_eof(script.tail)
    return response


_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


async def _until(due_s: float) -> None:
    """Wait until ``due_s`` (monotonic); where that has passed, only let the others have a turn."""
    await asyncio.sleep(max(0.0, due_s - time.monotonic()))


def _error(refused: Refusal) -> web.Response:
    return web.Response(
        status=refused.status,
        body=refused.body(),
        content_type="application/json",
        headers=refused.headers,
    )


def _hang_up(transport: asyncio.Transport | None) -> None:
    if transport:
        transport.close()


@dataclass(frozen=True, slots=True)
class Service:
    """Where and for whom the endpoint is run. Port 0 = a free one; no key = all are served."""

    host: str
    port: int
    key: str | None = field(repr=False)
    truth_log: Path | None
    until_eof: bool = False


def serve(behaviour: Behaviour, service: Service, ready: Callable[[str], None]) -> None:
    """Run the endpoint until SIGINT or SIGTERM; ``ready`` gets its URL once it listens.

    UsageError if the address cannot be listened on or the truth log not be written.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve_until_stopped(behaviour, service, ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop where it is installed (AIPerf brings it), else None, asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve_until_stopped(
    behaviour: Behaviour, service: Service, ready: Callable[[str], None]
) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    log = _open_log(service.truth_log)
    app = Endpoint(behaviour, service.key, log).app()
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
    )
    try:
        ready(await _listen(runner, service))
        await stopped.wait()
    finally:
        await runner.cleanup()
        log.close()


async def _listen(runner: web.AppRunner, service: Service) -> str:
    await runner.setup()
    site = web.TCPSite(runner, service.host, service.port, backlog=_BACKLOG)
    try:
        await site.start()
    except OSError as error:
        where = f"{service.host}:{service.port}"
        raise UsageError(where, str(error.strerror), "choose another --port, or 0") from None
    return f"http://{service.host}:{runner.addresses[0][1]}"


def _open_log(path: Path | None) -> TruthLog:
    try:
        return TruthLog(path)
    except OSError as error:
        raise UsageError(str(path), str(error.strerror), "name a writable --truth-log") from None
