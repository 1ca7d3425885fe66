"""labledger queue ... and job ...: the line of jobs, and what is done with it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command

if TYPE_CHECKING:
    from bus.outcomes import Outcome
    from labledger.client import Lab

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="The job's id (of a scan: the scan's), or its first letters.")]
Revision = Annotated[
    int | None, typer.Option("--expected-revision", help="Refuse if the queue was changed since you saw it.")
]
Mode = Annotated[str | None, typer.Option("--mode", help="automatic or manual.")]
Order = Annotated[str | None, typer.Option("--order", help="fifo or priority.")]
Most = Annotated[int | None, typer.Option("--max-concurrent", min=1, help="Jobs that may run at once.")]
Title = Annotated[str | None, typer.Option("--title", help="For people.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Queues: what runs, what waits, and in which order.", no_args_is_help=True)
    app.add_typer(group, name="queue")

    @command(group, "create", example="labledger queue create night --order priority --max-concurrent 2")
    def _create(
        session: Session,
        queue_id: Queue,
        mode: Mode = None,
        order: Order = None,
        most: Most = None,
        title: Title = None,
    ) -> None:
        """Make a queue."""

        async def create(lab: "Lab") -> None:
            made = await lab.queues.create(queue_id, mode=mode, order=order, max_concurrent=most, title=title)
            session.outcome(made, f"queue {queue_id} is there")

        session.run(create)

    @command(group, "configure", example="labledger queue configure main --mode manual")
    def _configure(
        session: Session,
        queue_id: Queue,
        mode: Mode = None,
        order: Order = None,
        most: Most = None,
        title: Title = None,
        expected_revision: Revision = None,
    ) -> None:
        """Change a queue's settings; what is not given stays."""

        async def configure(lab: "Lab") -> None:
            done = await lab.queues.configure(
                queue_id,
                mode=mode,
                order=order,
                max_concurrent=most,
                title=title,
                expected_revision=expected_revision,
            )
            session.outcome(done, f"queue {queue_id} is configured")

        session.run(configure)

    @command(group, "list", example="labledger queue list")
    def _list(session: Session) -> None:
        """All queues."""
        found = session.run(lambda lab: lab.queues.list())
        rows = [one | {"runs": len(one["running"]), "waits": len(one["waiting"])} for one in found]
        columns = {"queue_id": "queue", "state": "state", "runs": "running", "waits": "waiting", "mode": "mode"}
        session.table(rows, columns | {"order": "order", "max_concurrent": "at once", "title": "title"})

    @command(group, "show", example="labledger queue show main")
    def _show(session: Session, queue_id: Queue = "main") -> None:
        """A queue: its state, what runs, and what waits in the order in which it is served."""
        found = session.run(lambda lab: lab.queues.get(queue_id))
        if session.json:
            session.emit(found)
            return
        stopped = ", stopped by a person" if found["stopped"] else ""
        session.print(
            f"[bold]queue {queue_id}[/bold] is {found['state']}{stopped}; {found['mode']}, {found['order']}, "
            f"{found['max_concurrent']} at once; {found['finished']} jobs ended; revision {found['revision']}"
        )
        rows: list[dict[str, Any]] = [{"place": "runs"} | one for one in found["running"]]
        rows += [{"place": str(place)} | one for place, one in enumerate(found["waiting"], 1)]
        columns = {
            "place": "place",
            "job_id": "job",
            "job_kind": "kind",
            "priority": "priority",
            "claims": "instruments",
        }
        session.table(rows, columns | {"title": "title", "retry_at": "not before"}, empty="no jobs")

    _simple(group, "start", "Start a queue that was stopped, or is manual.", "runs")
    _simple(group, "resume", "Let a paused queue go on.", "goes on")
    _simple(group, "stop", "Let the running jobs finish, dispatch nothing more, then stay idle until started.", "stops")
    _simple(group, "abort", "As stop, but the running jobs are asked to abort.", "stops, and its jobs abort")

    @command(group, "pause", example="labledger queue pause main --running-jobs pause")
    def _pause(
        session: Session,
        queue_id: Queue = "main",
        running_jobs: Annotated[str, typer.Option("--running-jobs", help="finish or pause.")] = "finish",
    ) -> None:
        """Dispatch nothing more. Running jobs finish, or pause too."""

        async def pause(lab: "Lab") -> None:
            session.outcome(await lab.queues.pause(queue_id, running_jobs), f"queue {queue_id} pauses")

        session.run(pause)

    @command(group, "clear", example="labledger queue clear main")
    def _clear(session: Session, queue_id: Queue = "main", expected_revision: Revision = None) -> None:
        """Take all waiting jobs out. Running ones go on."""

        async def clear(lab: "Lab") -> None:
            session.outcome(await lab.queues.clear(queue_id, expected_revision), f"queue {queue_id} is cleared")

        session.run(clear)

    @command(group, "move", example="labledger queue move main 01a1fa6f first")
    def _move(
        session: Session,
        queue_id: Queue,
        job_id: Job,
        to: Annotated[str, typer.Argument(help="A place from 1 on, first, last, before:JOB or after:JOB.")],
        expected_revision: Revision = None,
    ) -> None:
        """Move a waiting job to another place in the line."""

        async def move(lab: "Lab") -> None:
            where: Any = int(to) if to.isdigit() else to
            kind, colon, other = to.partition(":")
            if colon:
                where = {kind: await resolve(lab, queue_id, other)}
            job = await resolve(lab, queue_id, job_id)
            session.outcome(await lab.queues.move(queue_id, job, where, expected_revision), f"job {job} is moved")

        session.run(move)

    @command(group, "remove", example="labledger queue remove main 01a1fa6f")
    def _remove(session: Session, queue_id: Queue, job_id: Job, expected_revision: Revision = None) -> None:
        """Take a waiting job out of the line."""

        async def remove(lab: "Lab") -> None:
            job = await resolve(lab, queue_id, job_id)
            session.outcome(await lab.queues.remove(queue_id, job, expected_revision), f"job {job} is taken out")

        session.run(remove)

    @command(group, "replace", example="labledger queue replace main OLD-JOB NEW-JOB --job-kind delivery")
    def _replace(
        session: Session,
        queue_id: Queue,
        job_id: Job,
        new_job_id: Annotated[str, typer.Argument(metavar="NEW", help="The id of the job that takes its place.")],
        job_kind: Annotated[str, typer.Option("--job-kind")] = "scan",
        priority: Annotated[str | None, typer.Option("--priority")] = None,
        claims: Annotated[list[str] | None, typer.Option("--claim", help="An instrument that it needs.")] = None,
        title: Annotated[str, typer.Option("--title")] = "",
        expected_revision: Revision = None,
    ) -> None:
        """Put another job in the place of a waiting one."""

        async def put(lab: "Lab") -> None:
            job = await resolve(lab, queue_id, job_id)
            done = await lab.queues.replace(
                queue_id,
                job,
                new_job_id,
                job_kind=job_kind,
                priority=priority,
                claims=claims or [],
                title=title,
                expected_revision=expected_revision,
            )
            session.outcome(done, f"job {new_job_id} stands in the place of {job}")

        session.run(put)

    @command(group, "set-priority", example="labledger queue set-priority main 01a1fa6f urgent")
    def _set_priority(
        session: Session,
        queue_id: Queue,
        job_id: Job,
        priority: Annotated[str, typer.Argument(help="low, normal, high or urgent.")],
        expected_revision: Revision = None,
    ) -> None:
        """Give a waiting job another priority."""

        async def change(lab: "Lab") -> None:
            job = await resolve(lab, queue_id, job_id)
            done = await lab.queues.set_priority(queue_id, job, priority, expected_revision)
            session.outcome(done, f"job {job} is {priority}")

        session.run(change)

    @command(group, "run-job", example="labledger queue run-job main 01a1fa6f")
    def _run_job(session: Session, queue_id: Queue, job_id: Job) -> None:
        """Of a manual queue: run this job now."""

        async def run_job(lab: "Lab") -> None:
            job = await resolve(lab, queue_id, job_id)
            session.outcome(await lab.queues.run_job(queue_id, job), f"job {job} is dispatched")

        session.run(run_job)

    @command(group, "log", example="labledger queue log main -n 50")
    def _log(
        session: Session, queue_id: Queue = "main", limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 30
    ) -> None:
        """What happened to a queue, the newest last."""
        from labledger.cli.history import show_events

        show_events(session, session.run(lambda lab: lab.queues.log(queue_id, limit)))

    jobs = typer.Typer(help="Jobs: what a queue hands to a worker.", no_args_is_help=True)
    app.add_typer(jobs, name="job")

    @command(jobs, "show", example="labledger job show 01a1fa6f-5f9d-739b-bcf3-6d235b87da7c")
    def _show_job(session: Session, job_id: Job) -> None:
        """A job as it stands."""
        found = session.run(lambda lab: lab.jobs.get(job_id))
        session.record(found, title=f"job {job_id} is {found['state']}")

    @command(jobs, "retry", example="labledger job retry 01a1fa6f-5f9d-739b-bcf3-6d235b87da7c")
    def _retry(session: Session, job_id: Job) -> None:
        """Run a failed or cancelled job again."""

        async def retry(lab: "Lab") -> None:
            session.outcome(await lab.jobs.retry(job_id), f"job {job_id} waits again")

        session.run(retry)

    @command(jobs, "cancel", example="labledger job cancel 01a1fa6f-5f9d-739b-bcf3-6d235b87da7c --reason 'wrong plan'")
    def _cancel(session: Session, job_id: Job, reason: Annotated[str, typer.Option("--reason")] = "") -> None:
        """Take a job out before it ends; a running one is asked to stop."""

        async def cancel(lab: "Lab") -> None:
            session.outcome(await lab.jobs.cancel(job_id, reason), f"job {job_id} is cancelled")

        session.run(cancel)


def _simple(group: typer.Typer, verb: str, doc: str, words: str) -> None:
    def simple(session: Session, queue_id: Queue = "main") -> None:
        async def do(lab: "Lab") -> None:
            done: Outcome = await getattr(lab.queues, verb)(queue_id)
            session.outcome(done, f"queue {queue_id} {words}")

        session.run(do)

    simple.__doc__ = doc
    command(group, verb, example=f"labledger queue {verb} main")(simple)


async def resolve(lab: "Lab", queue_id: str, given: str) -> str:
    """A job's id from what a person types: all of it, or the beginning of one that is in the queue."""
    if len(given) == 36:
        return given
    queue = await lab.queues.get(queue_id)
    found = [one["job_id"] for one in (*queue["running"], *queue["waiting"]) if str(one["job_id"]).startswith(given)]
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise Stop(f"there is no job {given} in queue {queue_id}: `labledger queue show {queue_id}`", Code.REFUSED)
    raise Stop(f"{given} stands for {len(found)} jobs: give more of the id", Code.INVALID)
