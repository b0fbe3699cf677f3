"""The engine of this process: started once, kept from work item to work item, asked from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from synth.engine import Engine, EngineDied, EngineSettings, start_engine

LOOK_SECONDS, STOP_SECONDS = 0.5, 10.0


_started = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop, in a thread of its own that ends with the process.

    Children are started by this thread, and to the kernel it is their parent: it must outlive them.
    """
    with _started:
        if not _loops:
            _loops.append(asyncio.new_event_loop())
            threading.Thread(target=_loops[0].run_forever, name="engine", daemon=True).start()
        return _loops[0]


_engines: dict[EngineSettings, asyncio.Task[Engine]] = {}


async def engine_of(settings: EngineSettings) -> Engine:
    """The running engine for ``settings``; call it on the loop of :func:`run`."""
    task = _engines.get(settings)
    if task is None:
        for other in list(_engines):  # two models do not fit beside each other
            engine = _engines.pop(other)
            if engine.done() and not engine.cancelled() and engine.exception() is None:
                await engine.result().close()
        task = _engines[settings] = asyncio.create_task(start_engine(settings))
    try:
        return await asyncio.shield(task)
    except Exception:
        _engines.pop(settings, None)
        raise


def run(work: Coroutine[Any, Any, Any], look: Callable[[], None]) -> Any:
    """Run ``work`` on the loop and wait for it; ``look`` is called twice a second and may raise to stop."""
    ended = threading.Event()

    async def noted() -> Any:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(noted(), _loop())
    try:
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                look()
    except EngineDied:
        _engines.clear()
        raise
    finally:
        if not future.done():
            future.cancel()
            ended.wait(STOP_SECONDS)  # what was on its way may still write


def call(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` on the loop from another thread, which waits."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


def close() -> None:
    """End every engine of this process."""

    async def end() -> None:
        for task in _engines.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                await task.result().close()
        _engines.clear()

    call(end())
