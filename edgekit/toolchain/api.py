"""``edgekit.build`` and what the command line calls: many models, several at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.toolchain.build import Job, Outcome, build_one, check_license, planned, up_to_date
from edgekit.toolchain.events import Event, OnEvent, ignore
from edgekit.toolchain.keys import signing_key
from edgekit.toolchain.lock import read_lock, write_lock
from edgekit.toolchain.plan import Plan
from edgekit.toolchain.project import folders
from edgekit.toolchain.recipe import Recipe, load_recipe
from edgekit.toolchain.settings import Settings, load_settings
from edgekit.toolchain.targets import load_target
from edgekit.toolchain.timing import Device
from edgekit.wire.errors import (
    EXIT_INTERRUPTED,
    BuildError,
    ConfigError,
    EdgekitError,
    MissingToolError,
    did_you_mean,
)

log = logging.getLogger(__name__)

_GRACE_S = 5.0


@dataclass(frozen=True)
class BuildResult:
    """What a build ended with.

    Attributes:
        outcomes: One a model, in the order asked for.
        created_key: Path of the developer key, if this build made it.
    """

    outcomes: tuple[Outcome, ...]
    created_key: Path | None = None

    @property
    def exit_code(self) -> int:
        """The worst exit code of all models."""
        return max((o.exit_code for o in self.outcomes), default=0)


@dataclass(frozen=True)
class Prepared:
    """Resolved inputs of a build."""

    jobs: tuple[Job, ...]
    project: Path
    settings: Settings
    created_key: Path | None = None
    failures: tuple[Outcome, ...] = field(default=())


def model_names(project: Path) -> list[str]:
    """Return the models of a project: its own, or the packaged ones where it has none."""
    return [path.stem for path in _recipe_files(project)]


def find_recipe(name: str, project: Path) -> Recipe:
    """Load a recipe by its name.

    Raises:
        ConfigError: There is none of that name, or it is malformed.
    """
    found = {p.stem: p for folder in folders(project, "models") for p in folder.glob("*.toml")}
    if name not in found:
        close = did_you_mean(name, found)
        raise ConfigError(
            f'no model named "{name}"',
            hint=f"did you mean {close}?" if close else f"models: {', '.join(sorted(found))}",
        )
    return load_recipe(found[name])


def prepare(
    models: Sequence[str],
    *,
    target: str,
    project: Path,
    flags: Mapping[str, object],
    env: Mapping[str, str] | None = None,
    recipes: Sequence[Recipe] = (),
    device: Device | None = None,
) -> Prepared:
    """Resolve recipes, target, settings and key.

    Args:
        models: Names; none means all of the project's.
        target: Name of the target.
        project: The project's folder.
        flags: Settings given on the command line.
        env: Environment; the process's by default.
        recipes: Recipes that stand in no file; then ``models`` is not looked at.
        device: A board of the target's kind, whose timings decide.

    Raises:
        ConfigError: Something is named that does not exist, or is malformed.
    """
    environment = os.environ if env is None else env
    settings = load_settings(project, flags, environment)
    resolved = load_target(target, folders(project, "targets"))
    chosen: list[Recipe] = list(recipes)
    failures: list[Outcome] = []
    if not recipes:
        for name in models or model_names(project):
            try:
                chosen.append(find_recipe(name, project))
            except ConfigError as error:
                if len(models) == 1:
                    raise
                failures.append(failed(name, target, error))
    key, created = signing_key(settings.key_file, environment)
    lock = read_lock(project)
    jobs = tuple(Job(recipe, resolved, settings, lock, key, device) for recipe in chosen)
    return Prepared(
        jobs, project, settings, settings.key_file if created else None, tuple(failures)
    )


def plans(prepared: Prepared) -> list[Plan]:
    """Return the plans of all jobs."""
    return [planned(job) for job in prepared.jobs]


def build(
    models: Sequence[str] = (),
    *,
    target: str,
    project: Path | str = ".",
    dist: Path | str | None = None,
    device: Device | None = None,
    on_event: OnEvent = ignore,
    **settings: object,
) -> BuildResult:
    """Build models for a target and pack signed bundles.

    Args:
        models: Names of recipes; none means all of the project's.
        target: ``rpi5``; ``edgekit targets list`` shows all.
        project: Folder with ``models/``, ``targets/`` and ``edgekit.toml``, all optional.
        dist: Where bundles go; ``dist`` in the project by default.
        device: A connected board of the target's kind: what it measures decides which candidate
            ships. Without one, this host's timing does where it is the target's kind, and the
            predicted latency elsewhere.
        on_event: Hears of progress.
        **settings: Any setting of ``edgekit.toml`` by name: ``offline=True``. ``jobs`` is 1 unless
            given: more are worker processes, which a script may start only below
            ``if __name__ == "__main__":``.

    Returns:
        One outcome a model. One failure does not stop the others: see ``exit_code``.

    Raises:
        ConfigError: Something is named that does not exist, or is malformed.
    """
    flags = {"jobs": 1, **settings, **({} if dist is None else {"dist_dir": Path(dist)})}
    prepared = prepare(models, target=target, project=Path(project), flags=flags, device=device)
    return build_prepared(prepared, on_event, leave_out=not models)


def build_prepared(
    prepared: Prepared, on_event: OnEvent = ignore, *, leave_out: bool = False
) -> BuildResult:
    """Build prepared jobs, several at once.

    Args:
        prepared: From :func:`prepare`.
        on_event: Hears of progress, in this process.
        leave_out: A model whose export needs a package that is not installed is left out instead
            of failing.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: list[Job] = []
    for job in prepared.jobs:
        try:
            check_license(job)
            done = up_to_date(job, planned(job))
        except EdgekitError as error:
            done = failed(job.recipe.name, job.resolved.target.name, error)
        if done is not None:
            outcomes[job.recipe.name] = done
        else:
            waiting.append(job)
    for outcome in _run_all(waiting, min(prepared.settings.jobs, len(waiting)), on_event):
        missing = (outcome.error or {}).get("error") == MissingToolError.__name__
        outcomes[outcome.model] = _left_out(outcome) if missing and leave_out else outcome
    write_lock(
        prepared.project,
        {f"{o.model}/{o.target}": o.lock for o in outcomes.values() if o.lock is not None},
    )
    ordered = [outcomes[job.recipe.name] for job in prepared.jobs]
    return BuildResult((*prepared.failures, *ordered), prepared.created_key)


def failed(model: str, target: str, error: EdgekitError) -> Outcome:
    """Return the outcome of a failure."""
    document = {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "where": error.where,
    }
    return Outcome(model, target, "failed", error=document, exit_code=error.exit_code)


def _left_out(outcome: Outcome) -> Outcome:
    return Outcome(outcome.model, outcome.target, "left-out", error=outcome.error)


def _recipe_files(project: Path) -> list[Path]:
    own = project / "models"
    found = sorted(own.glob("*.toml")) if own.is_dir() else []
    return found or sorted(folders(project, "models")[0].glob("*.toml"))


def _guarded(job: Job, on_event: OnEvent) -> Outcome:
    try:
        return build_one(job, on_event)
    except EdgekitError as error:
        return failed(job.recipe.name, job.resolved.target.name, error)
    except MemoryError as error:
        return failed(
            job.recipe.name,
            job.resolved.target.name,
            BuildError(f"out of memory: {error}", hint="build with --jobs 1"),
        )


def _run_all(jobs: Sequence[Job], workers: int, on_event: OnEvent) -> Iterator[Outcome]:
    if workers <= 1:
        for job in jobs:
            yield _guarded(job, on_event)
        return
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    with _listening(events, on_event), _pool(workers, context, events) as pool:
        with _ctrl_c_later():
            pending: dict[Future[Outcome], Job] = {
                pool.submit(_in_worker, job): job for job in jobs
            }
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                job = pending.pop(future)
                yield _result(future, job)


def _result(future: Future[Outcome], job: Job) -> Outcome:
    from concurrent.futures.process import BrokenProcessPool

    try:
        return future.result()
    except BrokenProcessPool as error:
        return failed(
            job.recipe.name,
            job.resolved.target.name,
            BuildError(f"the worker process died: {error}", hint="build with --jobs 1"),
        )
    except Exception as error:
        # A bug met by one model does not stop the others; it is this outcome, with exit code 1.
        log.debug("in a worker", exc_info=error)
        return failed(
            job.recipe.name,
            job.resolved.target.name,
            EdgekitError(
                f"internal error: {type(error).__name__}: {error}",
                hint="please report it; `--jobs 1 --verbose` shows the traceback",
            ),
        )


@contextmanager
def _pool(workers: int, context: Any, events: Any) -> Iterator[ProcessPoolExecutor]:  # noqa: ANN401
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(events,)
    )
    try:
        yield pool
    except BaseException:
        # Ctrl-C: the workers ignore it and are ended here, with time to remove what is half made.
        workers_now = list((pool._processes or {}).values())
        for process in workers_now:
            process.terminate()
        for process in workers_now:
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold SIGINT back while processes start, which hold it, too, until they say how they take it.

    A process that is interrupted before that, or whose parent is before it was told what to do,
    ends with a traceback of multiprocessing's.
    """
    held: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    handler = (
        signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if in_main else None
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if held:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _listening(events: Any, on_event: OnEvent) -> Iterator[None]:  # noqa: ANN401
    """Hear the workers' events in a thread: one that is killed may leave half an event behind.

    Whoever reads that waits for the other half for ever, so it must not be the thread that
    notices the death.
    """

    def listen() -> None:
        while (event := events.get()) is not None:
            on_event(event)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        events.put(None)
        listener.join(_GRACE_S)
        events.cancel_join_thread()


_worker_events: Any = None
_worker_is_busy = False


def _start_worker(events: Any) -> None:  # noqa: ANN401
    global _worker_events  # noqa: PLW0603 - how multiprocessing hands a queue to a worker
    _worker_events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _stop_worker)


def _stop_worker(_signal: int, _frame: object) -> None:
    if not _worker_is_busy:
        os._exit(EXIT_INTERRUPTED)
    # A library in C++ that is interrupted while it loads would end with a trace of its own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # An exception, not an exit: stages remove their temporary files on the way out.
    raise KeyboardInterrupt


def _in_worker(job: Job) -> Outcome:
    global _worker_is_busy  # noqa: PLW0603 - read by the signal handler of this process
    listen: Callable[[Event], None] = _worker_events.put
    _worker_is_busy = True
    try:
        return _guarded(job, listen)
    except KeyboardInterrupt:
        # Not by way of the pool, which would go on with the next job, nor of the events' queue,
        # which waits until somebody has read all of it.
        os._exit(EXIT_INTERRUPTED)
    finally:
        _worker_is_busy = False
