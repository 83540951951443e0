"""Settings of the gateway: where it reads, whom it asks, what it bounds, and who may call it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class GatewaySettings(BaseModel):
    """Where the gateway reads, whom it asks and what it bounds.

    Attributes:
        run: the run folder; names, histories and popularity come from what the answering release was made from: a job's folder
            `<run>/jobs/<number>/ingest`, or `<run>/ingest`.
        source: the dataset folder whose `media/` is handed out; None = no media.
        state: where feedback and added items are kept; None = `<run>/gateway`.
        target: "host:port" of the model server's gRPC port.
        label: version label that all models are asked for; None = `stable` where the run's releases are labelled as the
            gateway starts, else the highest version, as by "".
        deadline_seconds: for each call to the model server, retries and the hedge included.
        encode_seconds: the same for encoding a new item, which reads pictures and sound.
        clock: "now" sends the wall clock with a request that names no time; "log" sends the time of the log's last
            event, which suits a demonstration on a log that ended long ago (items would all look old otherwise). Of a log
            without times 0 is sent in either case: unknown, as in training.
        max_body_bytes, max_item_bytes: larger request bodies are refused; the second holds where items come with media.
        keys: file of API keys (`serving.gateway.keys`); None = open, to callers on this machine alone.
        requests_per_second, burst: of each key, unless the key file gives its own.
        certificate, private_key: PEM files for TLS; None = plain HTTP.
        log_salt: file of 16 bytes or more that user ids are hashed with in logs; None = drawn at every start, so that
            hashes of two runs of the gateway cannot be joined.
        cache_seconds, cache_entries: how long and how many answers are kept; 0 seconds = no cache.
        session_seconds, session_users: how long after its last event a session counts, and of how many users. A day reaches to
            the next night's job: requests in a session bring their own history, the session before the run's log, and what a
            shorter one had forgotten would be in neither, though a follower has put it into what is stored of the user.
        poll_seconds: how often the server is asked which release it answers with. An older one than before, as of a roll
            back, is followed once it alone has answered for three times as long.
        hedge: whether a call that takes longer than the 95th percentile is sent a second time.
        breaker_seconds: how long no call is tried once the server has failed; see `serving.client.circuit_breaker`.
        most_items: how many items may be added to one release; those that it holds by now do not count.
        threads: requests answered at the same time.
        roll_seconds, roll_events: feedback is moved from the log to Parquet after so long, or so many events.
        score_reference: histogram that scores are compared with (`serving.gateway.drift`); None = the one in
            `<run>/releases/<version>`, else the first scores of a release.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    source: Path | None = None
    state: Path | None = None
    target: str = "127.0.0.1:8500"
    label: str | None = None
    retrieval_model: str = "retrieval"
    ranking_model: str = "ranking"
    search_model: str = "search"
    encoder_model: str = "item_encoder"
    deadline_seconds: float = Field(2.0, gt=0, le=60)
    encode_seconds: float = Field(10.0, gt=0, le=120)
    clock: Literal["now", "log"] = "now"
    max_body_bytes: int = Field(512 * 1024, ge=1024)
    max_item_bytes: int = Field(24 * 2**20, ge=1024)
    keys: Path | None = None
    requests_per_second: float = Field(100.0, gt=0)
    burst: int = Field(200, ge=1)
    certificate: Path | None = None
    private_key: Path | None = None
    log_salt: Path | None = None
    cache_seconds: float = Field(30.0, ge=0, le=3600)
    cache_entries: int = Field(10_000, ge=1)
    session_seconds: float = Field(86_400.0, gt=0)
    session_users: int = Field(100_000, ge=1)
    poll_seconds: float = Field(2.0, gt=0, le=60)
    hedge: bool = True
    breaker_seconds: float = Field(2.0, gt=0, le=60)
    most_items: int = Field(20_000, ge=1)
    threads: int = Field(64, ge=1, le=1024)
    roll_seconds: float = Field(60.0, gt=0)
    roll_events: int = Field(50_000, ge=1)
    score_reference: Path | None = None

    @model_validator(mode="after")
    def _tls_needs_both(self) -> GatewaySettings:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate, private_key: TLS needs both files, received one; give the other or neither")
        return self

    @property
    def state_folder(self) -> Path:
        return self.run / "gateway" if self.state is None else self.state


def load_settings(path: Path) -> GatewaySettings:
    """The settings in a TOML file, whose keys are the attributes above.

    Raises:
        ValueError: the file cannot be read, or a key breaks a rule; the message has a line for each.
    """
    try:
        return GatewaySettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"config: must be a TOML file, received {str(path)!r}, which does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"config: {path} must be TOML: {error}") from None
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, received {problem['input']!r}"
            if problem["loc"]
            else str(problem["msg"])
            for problem in error.errors()
        ]
        raise ValueError(f"config: {path}: " + "; ".join(lines)) from None
