"""From a claimed task to a launched supervisor: job file, arguments, run directory, launch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slotsched import contract
from slotsched.catalog import check_arguments
from slotsched.errors import InvalidArguments, InvalidJob, NotFound
from slotsched.estimate import planned
from slotsched.execution import Command, build, with_defaults, write_io
from slotsched.failpoints import failpoint
from slotsched.model import Job, Outcome, Reason, SeriesMemory, Task
from slotsched.model.needs import resource_variable
from slotsched.model.task import jsonable
from slotsched.process import SpawnerGone, Spec, write_spec
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.fitness import SHORTAGES
from slotsched.scheduler.run import Run, RunRecord

NO_MEMORY = SeriesMemory()


class Starter:
    """Starts one claimed task after the other. What cannot start ends as `not_started` or `invalid`, never the loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(self, task: Task, token: str, history: Sequence[float] = (), memory: SeriesMemory = NO_MEMORY) -> Run:
        """Start a task that the store shows as claimed with `token`. The run is in the roster afterwards.

        memory: what the last completed run of the task's series left.
        """
        engine = self._engine
        record = RunRecord.of(task, token, engine.ref, engine.archive.url)
        run = Run(record=record, directory=engine.state.run_directory(record.run_id), launched=engine.now())
        engine.roster.add(run)
        engine.ledger.adopt(run.id, task.needs)
        record = replace(record, units=engine.ledger.units(run.id))
        try:
            job = engine.folder.fresh(task.job)
            args = with_defaults(job, check_arguments(task.job, job.parameters, task.args))
            limit = task.max_time or job.facts.max_time
            run.record = replace(
                record,
                hash=job.hash,
                max_time=limit,
                grace=job.facts.grace,
                memory_retry_factor=job.facts.memory_retry_factor,
            )
            run.planned = planned(history, limit)
            self._prepare(run, task, job, args, memory)
        except (InvalidJob, NotFound) as error:
            engine.scan = engine.folder.scan()  # at once: the slot is free again, and the next such task shall wait
            self._not_started(run, Reason.NOT_STARTED, str(error))
        except InvalidArguments as error:
            self._not_started(run, Reason.INVALID, f"the arguments no longer fit the job: {error}")
        except OSError as error:
            self._no_directory(run, error)
        else:
            self._launch(run)
            engine.log.info("started", task=task.id, job=task.job, attempt=task.attempt, slots=task.needs.slots)
        return run

    def relaunch(self, run: Run) -> None:
        """Send a run to the (new) spawner again; the start right makes a second launch harmless."""
        self._launch(run)

    @failpoint("prepare")
    def _prepare(self, run: Run, task: Task, job: Job, args: dict[str, object], memory: SeriesMemory) -> None:
        """Write everything the supervisor needs; the record last, so that a half-written folder is known as one."""
        io = run.directory / contract.RUN_IO
        if run.directory.exists():
            shutil.rmtree(run.directory)
        run.directory.mkdir(parents=True, mode=0o700)  # the supervisor lets a job of another user pass through
        io.mkdir(mode=0o700)
        write_io(io, args, memory.state)
        command = build(
            job,
            io=io,
            args=args,
            identity=self._identity(run, task, memory),
            python=self._engine.settings.python,
            pass_env=self._engine.settings.pass_env,
        )
        write_spec(run.directory, self._spec(run, task, job, command))
        run.record.write(run.directory)

    def _identity(self, run: Run, task: Task, memory: SeriesMemory) -> dict[str, str]:
        units = {resource_variable(name): ",".join(map(str, held)) for name, held in run.record.units.items()}
        return units | {
            contract.ENV_ID: task.id,
            contract.ENV_JOB: task.job,
            contract.ENV_ATTEMPT: str(task.attempt),
            contract.ENV_FENCE: str(task.fence),
            contract.ENV_TRIGGER: task.trigger,
            contract.ENV_SLOTS: str(task.needs.on(self._engine.ledger.capacity).slots),
            contract.ENV_INSTANCE: self._engine.settings.name,
            contract.ENV_LAST_COMPLETED_AT: jsonable(memory.last_completed_at) or "",
            contract.ENV_LAST_STARTED_AT: jsonable(memory.last_started_at) or "",
        }

    def _spec(self, run: Run, task: Task, job: Job, command: Command) -> Spec:
        engine = self._engine
        return Spec(
            argv=command.argv,
            env=command.env,
            cwd=command.cwd,
            max_time=run.record.max_time,
            grace=run.record.grace,
            memory=task.needs.memory,
            user=job.facts.user,
            user_namespace=job.facts.user_namespace,
            log_limit=engine.settings.log_limit,
            deadline_file=str(engine.state.deadline_file(engine.identity.id)),
            die_at_deadline=run.record.may_run_again,
            containment=engine.settings.containment,
        )

    @failpoint("launch")
    def _launch(self, run: Run) -> None:
        try:
            self._engine.launcher.launch(run.directory)
        except SpawnerGone:
            # The loop sees the same end on the socket, starts a new spawner and relaunches what waits.
            self._engine.log.warning("the spawner is gone; launching again soon", task=run.record.task_id)

    def _no_directory(self, run: Run, error: OSError) -> None:
        """A full disk is this machine's trouble, not the task's: another may start it, or this one later."""
        why = f"cannot write the run directory: {error}"
        if error.errno not in SHORTAGES:
            self._not_started(run, Reason.NOT_STARTED, why)
            return
        engine = self._engine
        engine.fitness.refused(f"it {why}")
        engine.ledger.give_back(run.id)
        self._drop_directory(run.directory)
        run.end_unstarted()
        engine.log.warning("not started; releasing it", task=run.record.task_id, job=run.record.job, why=why)

    def _not_started(self, run: Run, reason: Reason, message: str) -> None:
        engine = self._engine
        engine.ledger.give_back(run.id)
        self._drop_directory(run.directory)
        run.end(Outcome(reason=reason, message=message), engine.now())
        engine.log.warning("not started", task=run.record.task_id, job=run.record.job, why=message)

    def _drop_directory(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
