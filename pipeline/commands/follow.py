"""`python -m pipeline follow`: updates between two jobs, and back to the release."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.exit_code import telling_failures
from pipeline.commands.own_settings import own_settings

LOCK_SECONDS = 60.0
ROLLED_BACK = 10
"""Exit code of `--once` where the release itself answers: a job's for "the current release was kept"."""


def follow(
    out: Annotated[Path, typer.Option("--out", help="Run folder whose stable or newest release is followed.")] = Path(
        "runs/demo"
    ),
    log: Annotated[
        Path | None, typer.Option("--log", help="Feedback folder of a gateway, normally <state>/feedback.")
    ] = None,
    kafka: Annotated[
        str | None, typer.Option("--kafka", help="Bootstrap servers, host:port,host:port, in the place of --log.")
    ] = None,
    topic: Annotated[str, typer.Option(help="Topic that `serving.feedback.kafka` fills.")] = "feedback",
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of settings; the release's own else.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Events that are enough for an update.")] = 256,
    max_staleness: Annotated[float, typer.Option(help="Seconds from an event's arrival until it is published.")] = 30.0,
    replay: Annotated[float, typer.Option(min=0, help="Older events to a new one in the steps of users' vectors.")] = 4.0,
    rate: Annotated[
        float, typer.Option(min=0, help="Rate of these steps, as a share of retrieval.learning_rate; 0 = none.")
    ] = 0.3,
    bound: Annotated[
        float, typer.Option(help="Back to the release where recall@20 on the newest events is lower than its by more.")
    ] = 0.05,
    server: Annotated[
        list[str] | None, typer.Option("--server", help="HOST:PORT of a model server's gRPC port that is waited for.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Publish what is there (of a topic: up to its end), and stop.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="The release itself answers again, at once.")] = False,
    again: Annotated[bool, typer.Option("--again", help="After a roll back: begin anew from the release.")] = False,
) -> None:
    """Learn from events as they come in, and publish users' states beside the release until the next one.

    A model server with OUT/followed mounted in the place of OUT/releases serves the updates; it begins with the release
    itself. May be killed at any moment: started again, it goes on and ends with the same bytes. A new stable release of
    a job is followed from then on.

    Exit codes: 0; with --once also 10, the release itself answers after a roll back; 2 a wrong command line or setting;
    12 another follower is at work; 13 failed (no release yet, a full disk, a server that does not answer), to be started
    again.

    Example: python -m pipeline follow --out runs/demo --log runs/demo/gateway/feedback
    """
    from pipeline.follow.batches import EventBatches
    from pipeline.follow.follower import LOOK_SECONDS, Follower, FollowSettings
    from pipeline.follow.follower import again as begin_anew
    from pipeline.follow.follower import roll_back as go_back
    from pipeline.follow.journal import FOLDER
    from pipeline.follow.publish import answering
    from pipeline.nightly.lock import held
    from pipeline.settings.config import Config, load_config
    from pipeline.stage import StageError

    servers = server or []
    if rollback:
        with telling_failures():
            typer.echo(f"{answering(go_back(out, servers=servers))} answers")
        return
    if (log is None) == (kafka is None):
        raise typer.BadParameter("give one of --log FOLDER and --kafka HOST:PORT")
    try:
        EventBatches(batch, max_staleness, LOOK_SECONDS)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    settings = FollowSettings(batch=batch, max_staleness=max_staleness, replay=replay, rate=rate, bound=bound)

    def learned_with(run: Path) -> Config:
        try:
            return load_config(own_settings(out, config, run), set_ or [])
        except StageError as error:
            raise typer.BadParameter(str(error)) from None

    if config is not None:
        learned_with(out)  # a wrong file is told of at once, whether or not there is a release yet
    stop, say = threading.Event(), lambda line: typer.echo(line, err=True)
    with telling_failures(), held(out / FOLDER, "follow", LOCK_SECONDS, say) as lock:
        for number in (signal.SIGINT, signal.SIGTERM):  # whoever waits for the lock ends at once
            signal.signal(number, lambda *_: stop.set())
        if again:
            begin_anew(out)
        follower = Follower(out, _source(log, kafka, topic, out, once), learned_with, settings, servers=servers, say=say)
        while not stop.is_set():
            lock.check()
            if not follower.look(everything=once) and (once or stop.wait(LOOK_SECONDS)):
                break
    typer.echo(f"{answering(follower.cursor)} answers")
    if once and follower.cursor.rolled_back:
        raise typer.Exit(ROLLED_BACK)


def _source(log: Path | None, kafka: str | None, topic: str, out: Path, everything: bool):
    if log is not None:
        from serving.feedback.tail import FeedbackTail

        return FeedbackTail(log)
    from serving.feedback.kafka_source import KafkaSource, connect_consumer

    consumer = connect_consumer(str(kafka), f"triptych-{out.resolve().name}", everything=everything)
    return KafkaSource(consumer, topic, everything=everything)
