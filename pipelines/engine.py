"""The driver: walks the DAG, keeps a bounded number of work items in flight, loses nothing.

It reads and writes small JSON only. Every fact about what is done lies in commits, so a driver that
dies, however it dies, is replaced by starting another one.
"""

from __future__ import annotations

import collections
import datetime
import errno
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from pipelines import cluster
from pipelines.config import ConfigError, Dag
from pipelines.dataset import (
    Commit,
    Manifest,
    SchemaTooNew,
    fingerprint,
    read_commits,
    read_manifest,
)
from pipelines.finish import lost_rows, make_manifest
from pipelines.job import Job, job_status, make_task
from pipelines.lease import Lease
from pipelines.plan import Plan, make_plan, next_items, refilter_source, units
from pipelines.residents import Pool
from pipelines.storage import DiskFull, Folder, is_full
from pipelines.work import run_item

DONE, CONFIG, GAP, DISK, INTERRUPTED = 0, 2, 3, 4, 130
ATTEMPTS = 3
TICK_SECONDS = 0.5


class Engine:
    """One run of a DAG. ``run()`` returns the exit code."""

    def __init__(
        self,
        dag: Dag,
        run: Path,
        *,
        until: str | None = None,
        start: str | None = None,
        accept_gaps: tuple[str, ...] = (),
        ray_address: str | None = None,
        workers: int | None = None,
        show: Any = None,
    ):
        self.dag, self.run_folder, self.start = dag, Path(run).resolve(), start
        self.ray_address, self.workers, self.show = ray_address, workers, show
        for name in (until, start, *accept_gaps):
            if name is not None and name not in dag.nodes:
                raise ConfigError(f"no node is called {name!r}: there are {', '.join(dag.nodes)}")
        self.accept_gaps = set(accept_gaps)
        self.jobs = {unit.name: Job(unit) for unit in units(dag, until)}
        self.store = Folder(dag.store)
        self.refs: dict[Any, tuple[Job, str]] = {}
        self.remote_items: dict[int, Any] = {}
        self.pools: dict[str, Pool] = {}
        self.not_before: dict[str, float] = {}
        self.stopping = ""
        self.interrupts = 0
        self.started = time.time()
        self.cpus = 1

    # -- the run ----------------------------------------------------------------------------------

    def run(self) -> int:
        try:
            lease = self._open_run()
        except DiskFull as error:
            self.stopping = str(error)
            return DISK
        handlers = self._catch_signals()
        try:
            if not self._all_there():
                self.cpus = cluster.connect(self.ray_address, self.workers)
                self._catch_signals()  # Ray has put its own handler of SIGTERM in the place of ours
            last_beat = 0.0
            while self._step():
                # not after every item: the page goes through all that is committed
                if time.monotonic() - last_beat > TICK_SECONDS:
                    lease.beat()
                    self._publish("running")
                    last_beat = time.monotonic()
            code = self._exit_code()
        except OSError as error:
            if not is_full(error):
                raise
            where = f"no room left in {self.run_folder}: free some space and run again"
            self.stopping, code = str(error) if isinstance(error, DiskFull) else where, DISK
        except KeyboardInterrupt:
            self.stopping, code = "stopped at once", INTERRUPTED
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.refs:
                self._kill_workers()
            for pool in self.pools.values():
                pool.close()
            lease.release()
        state = {DONE: "done", INTERRUPTED: "stopped", DISK: "disk full"}.get(code, "failed")
        try:
            self._publish(state, code)
        except DiskFull:
            pass  # the exit code says it
        return code

    def _open_run(self) -> Lease:
        run = self.run_folder
        facts = run / "run.json"
        try:
            if run.exists() and not facts.exists() and any(run.iterdir()):
                raise ConfigError(f"{run} holds other files: give an empty or new folder with --run")
            if facts.exists() and (name := json.loads(facts.read_text())["name"]) != self.dag.name:
                raise ConfigError(
                    f"{run} holds the run {name!r}, not {self.dag.name!r}: give another folder with --run"
                )
            run.mkdir(parents=True, exist_ok=True)
            lease = Lease(run)
            (run / "stop").unlink(missing_ok=True)
            page = {"name": self.dag.name, "store": str(self.store)}
            Folder(run).write("run.json", json.dumps(page).encode())
            Folder(run).write("config.yaml", self.dag.text.encode())
            probe = f"probe-{os.getpid()}"
            self.store.write(probe, b"")
            self.store.delete(probe)
            self._log("start", config=self.dag.file, pid=os.getpid(), host=socket.gethostname())
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise ConfigError(f"cannot write the run or its store: {error}") from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise ConfigError(f"cannot write the run or its store: {error}") from error
            if is_full(error):
                raise DiskFull(error.errno, f"no room left for {run}: free some space") from error
            raise
        return lease

    def _all_there(self) -> bool:
        """Whether every dataset exists already: then no cluster is needed."""
        for job in self.jobs.values():
            self._try_open(job)
        return all(job.state == "done" for job in self.jobs.values())

    def _step(self) -> bool:
        """One turn: open what can be opened, submit, collect. False when there is nothing left to do."""
        for job in self.jobs.values():
            if job.state == "waiting" and not self.stopping:
                self._try_open(job)
        if not self.stopping:
            self._submit()
        for name in [name for name in self.pools if self.jobs[name].state != "running"]:
            self.pools.pop(name).close()
        if self.refs:
            self._collect()
            return True
        running = [job for job in self.jobs.values() if job.state == "running"]
        if self.stopping or not running:
            return False
        time.sleep(0.05)  # an item waits for its next attempt
        return True

    def _exit_code(self) -> int:
        if self.interrupts:
            return INTERRUPTED
        if self.stopping:
            return DISK
        return DONE if all(job.state == "done" for job in self.jobs.values()) else GAP

    # -- opening a unit ---------------------------------------------------------------------------

    def _try_open(self, job: Job) -> None:
        if job.state != "waiting":
            return
        if self._is_before_start(job):
            self._take_linked(job)
            return
        sources = [self.jobs[name] for name in job.unit.sources]
        bad = [source.name for source in sources if source.state in ("gap", "failed", "blocked")]
        if bad:
            job.state = "blocked"
            job.error = f"waits for {', '.join(bad)}"
            return
        if not all(source.state == "done" for source in sources):
            return
        inputs = {source.name: source.manifest for source in sources}
        folders = {source.name: source.plan.dataset for source in sources}
        try:
            job.plan = make_plan(job.unit, self.dag, self.store, inputs, folders)
            job.unit = job.plan.unit
            manifest = read_manifest(job.plan.dataset)
        except (ValueError, FileNotFoundError) as error:
            if isinstance(error, SchemaTooNew):
                raise ConfigError(str(error)) from error
            self._fail(job, str(error))
            return
        if manifest is not None:
            job.reused = True
            self._done(job, manifest)
            return
        main = inputs.get(job.unit.main_input)
        if main is not None and main.kind != "artifact" and not sum(s["rows"] for s in main.shards):
            if job.unit.shape == "fit":
                self._fail(
                    job,
                    f"its input {job.unit.main_input!r} has no rows, so there is nothing to fit: see what"
                    f" was dropped with `corpusmill report {self.run_folder}`",
                )
                return
            job.warnings.append(f"its input {job.unit.main_input!r} has no rows")
        job.refilter = refilter_source(job.plan, self.store)
        job.state = "running"
        self._log("open", node=job.name, dataset=str(job.plan.dataset))
        self._open_items(job, job.plan.items)

    def _is_before_start(self, job: Job) -> bool:
        """Whether --from leaves this unit as the run last had it."""
        if self.start is None:
            return False
        later = {self.start}
        for node in self.dag.nodes.values():
            if later & set(node.inputs.values()):
                later.add(node.name)
        return not any(node.name in later for node in job.unit.nodes)

    def _take_linked(self, job: Job) -> None:
        link = self._links().get(job.name)
        if link is None:
            raise ConfigError(
                f"--from {self.start}: this run has no dataset of {job.name!r} yet: run without --from"
            )
        dataset = self.store / link["dataset"]
        manifest = read_manifest(dataset, link["manifest"])
        if manifest is None:
            raise ConfigError(f"--from {self.start}: {dataset} is gone: run without --from")
        job.plan = Plan(job.unit, manifest.fingerprint, None, dataset, {}, {}, manifest.stages)
        job.reused = True
        self._done(job, manifest, link["manifest"])

    def _links(self) -> dict:
        path = self.run_folder / "links.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _open_items(self, job: Job, items: list[dict]) -> None:
        job.items = {item["item"]: item for item in items}
        there = read_commits(job.plan.dataset)
        job.commits = {name: there[name] for name in job.items if name in there}
        for name, commit in job.commits.items():
            if commit.key != job.items[name]["key"]:
                self._fail(
                    job,
                    f"{job.plan.dataset}/commits/{name}.json was made from other inputs: the dataset"
                    " folder was changed by hand; delete it and run again",
                )
                return
        job.queue = collections.deque(name for name in job.items if name not in job.commits)
        if not job.queue:
            self._phase_done(job)

    # -- work items -------------------------------------------------------------------------------

    def _submit(self) -> None:
        now = time.monotonic()
        for job in self.jobs.values():
            for _ in range(len(job.queue)):
                if job.state != "running" or not self._has_room(job):
                    break
                name = job.queue.popleft()
                if self.not_before.get(f"{job.name}/{name}", 0) > now:
                    job.queue.append(name)
                    continue
                self._submit_item(job, name)

    def _has_room(self, job: Job) -> bool:
        if getattr(job.unit.last.step, "resident", False):
            return job.name not in self.pools or self.pools[job.name].has_room
        return len(self.refs) - sum(pool.in_flight for pool in self.pools.values()) < 2 * self.cpus

    def _submit_item(self, job: Job, name: str) -> None:
        job.started = job.started or time.time()
        cpus = min(max(node.cpus for node in job.unit.nodes), self.cpus)
        task = make_task(job, name, self.jobs, self.run_folder, self.dag.seed)
        if getattr(job.unit.last.step, "resident", False):
            if job.name not in self.pools:
                self.pools[job.name] = Pool(job.unit.last.step, cpus)
            ref = self.pools[job.name].submit(task)
        else:
            ref = self._remote_item(cpus).remote(task)
        self.refs[ref] = (job, name)

    def _remote_item(self, cpus: int) -> Any:
        """The function that Ray calls: made once, or Ray sends it to the workers for each item anew."""
        import ray

        if cpus not in self.remote_items:
            self.remote_items[cpus] = ray.remote(num_cpus=cpus, max_retries=0)(run_item)
        return self.remote_items[cpus]

    def _collect(self) -> None:
        import ray

        ready, _ = ray.wait(list(self.refs), num_returns=1, timeout=TICK_SECONDS)
        if ready:
            ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)
        for ref in ready:
            job, name = self.refs.pop(ref)
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError as error:  # it could not be started there
                text = f"the worker could not load it: {str(error).strip().splitlines()[-1]}"
                result = {"failure": _worker_failure(error, text)}
            except ray.exceptions.RayError as error:  # the worker or its node died
                failure = _worker_failure(error, f"the worker died: {_first_line(error)}")
                result = {"failure": {**failure, "spoils_worker": True}}
            if job.name in self.pools:
                spoilt = result.get("failure", {}).get("spoils_worker", False)
                self.pools[job.name].collected(ref, spoilt)
            if "commit" in result:
                job.commits[name] = Commit.from_json(result["commit"])
                job.failures.pop(name, None)
                if len(job.commits) == len(job.items):
                    self._phase_done(job)
                else:
                    self._maybe_gap(job)
            else:
                self._item_failed(job, name, result["failure"])

    def _item_failed(self, job: Job, name: str, failure: dict) -> None:
        if failure.get("stopped"):
            return
        job.attempts[name] += 1
        texts = {key: self.dag.redact(text) for key, text in failure.items() if isinstance(text, str)}
        failure = {**failure, **texts}
        self._log("item failed", node=job.name, item=name, **failure)
        if failure.get("disk_full"):
            self.stopping = failure["message"]
            return
        job.failures[name] = failure
        if job.attempts[name] < ATTEMPTS:
            self.not_before[f"{job.name}/{name}"] = time.monotonic() + job.attempts[name]
            job.queue.append(name)
        else:
            self._maybe_gap(job)

    def _maybe_gap(self, job: Job) -> None:
        """When all that is left has failed for good, the node has a gap."""
        lost = [name for name, count in job.attempts.items() if count >= ATTEMPTS]
        lost = [name for name in lost if name not in job.commits]
        if not lost or len(job.commits) + len(lost) < len(job.items):
            return
        first = job.failures[lost[0]]
        job.error = (
            f"{len(lost)} of {len(job.items)} work items failed {ATTEMPTS} times; first: item"
            f" {lost[0]}: {first['type']}: {first['message']}"
        )
        accepted = self.accept_gaps & {node.name for node in job.unit.nodes}
        if accepted and job.unit.shape in ("map", "expand", "source") and job.commits:
            self._phase_done(job, gaps=sorted(lost))
            return
        job.state = "gap"
        job.ended = time.time()
        self._log("gap", node=job.name, error=job.error)

    def _phase_done(self, job: Job, gaps: list[str] | None = None) -> None:
        phases = job.unit.last.step.phases if job.unit.shape == "shuffle" else ()
        # an input without shards has nothing to shuffle; a later phase may have nothing to do
        if job.phase + 1 < len(phases) and (job.items or job.phase):
            job.before = [job.commits[name] for name in job.items]
            job.phase += 1
            self._open_items(job, next_items(job.plan, job.phase, job.before))
            return
        self._finish(job, gaps or [])

    # -- the end of a unit ------------------------------------------------------------------------

    def _finish(self, job: Job, gaps: list[str]) -> None:
        commits = [job.commits[name] for name in job.items if name in job.commits]
        if job.unit.shape == "source":
            known = set(job.items)
            there = read_commits(job.plan.dataset)
            commits = [commit for name, commit in there.items() if name not in known]
        rows_in = sum(commit.rows_in for commit in commits)
        quarantined = sum(commit.quarantined for commit in commits)
        if problem := lost_rows(job, commits, bool(gaps)):
            self._fail(job, problem)
            return
        allowed = max(10, job.unit.last.max_quarantine * rows_in)
        if quarantined > allowed:
            self._fail(
                job,
                f"{quarantined} of {rows_in} rows are in quarantine, more than {allowed:.0f}: read the"
                f" errors in {job.plan.dataset}/data/*.quarantined.*.parquet; if they are right, set"
                f" max_quarantine on node {job.name!r}",
            )
            return
        if quarantined:
            job.warnings.append(f"{quarantined} of {rows_in} rows are in quarantine")
        if job.unit.shape == "source" and not commits:
            job.warnings.append("it found nothing to read")
        manifest = make_manifest(job, commits, gaps, self.jobs, self.run_folder)
        name = "manifest.json"
        if gaps:
            name = f"manifest-gap-{fingerprint(gaps)[:12]}.json"
            job.warnings.append(f"gap accepted: {len(gaps)} work items are missing")
        job.plan.dataset.put_if_absent(name, json.dumps(manifest.to_json(), indent=1).encode())
        self._done(job, read_manifest(job.plan.dataset, name) or manifest, name)

    def _done(self, job: Job, manifest: Manifest, name: str = "manifest.json") -> None:
        job.manifest, job.state = manifest, "done"
        job.ended = time.time()
        links = self._links()
        links[job.name] = {"dataset": job.plan.dataset.uri.rsplit("/", 1)[-1], "manifest": name}
        Folder(self.run_folder).write("links.json", json.dumps(links, indent=1).encode())
        self._log("done", node=job.name, reused=job.reused, counts=manifest.counts)

    def _fail(self, job: Job, error: str) -> None:
        job.state, job.error, job.ended = "failed", self.dag.redact(error), time.time()
        job.queue.clear()
        self._log("failed", node=job.name, error=job.error)

    # -- signals, status --------------------------------------------------------------------------

    def _catch_signals(self) -> dict[int, Any]:
        return {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, number: int, frame: Any) -> None:
        self.interrupts += 1
        if self.interrupts == 1:
            self.stopping = "stopping after what is in flight; once more to stop now"
            (self.run_folder / "stop").touch()
        else:
            raise KeyboardInterrupt

    def _kill_workers(self) -> None:
        import ray

        for ref, (job, _) in self.refs.items():
            if job.name not in self.pools:  # an actor is killed as a whole
                ray.cancel(ref, force=True)
        self.refs.clear()

    def _log(self, event: str, **facts: Any) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with open(self.run_folder / "log.jsonl", "a") as file:
            file.write(json.dumps({"at": at, "event": event, **facts}) + "\n")
        if self.show is not None:
            self.show.event(event, facts)

    def _publish(self, state: str, code: int | None = None) -> None:
        status = self.status(state, code)
        partial = self.run_folder / f"status.json.{os.getpid()}"
        try:
            partial.write_text(json.dumps(status))
            os.replace(partial, self.run_folder / "status.json")
        except OSError as error:
            if not is_full(error):
                raise
            raise DiskFull(error.errno, f"no room left in {self.run_folder}") from error
        if self.show is not None:
            self.show.update(status)

    def status(self, state: str, code: int | None = None) -> dict:
        """What `corpusmill status` and the live table show."""
        return {
            "run": str(self.run_folder),
            "name": self.dag.name,
            "state": state,
            "code": code,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self.started,
            "updated": time.time(),
            "stopping": self.stopping,
            "nodes": [
                job_status(job, self.run_folder, sum(owner is job for owner, _ in self.refs.values()))
                for job in self.jobs.values()
            ],
        }


def _worker_failure(error: Exception, message: str) -> dict:
    return {"type": type(error).__name__, "message": message, "traceback": str(error)}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
