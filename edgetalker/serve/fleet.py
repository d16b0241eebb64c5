"""The Audio2Face-3D service on many machines: a Ray Serve application, whose replicas are batches.

Ray Serve carries bidirectional gRPC from 2.55 on (https://github.com/ray-project/ray/issues/42488): its proxies take
the streams, a stream stays with the replica that it began on, and a replica's streams are what scales it. Messages pass
the proxies as bytes. Of Ray Serve's own file (docs/serve.md has one):

    grpc_options: {port: 52000, grpc_servicer_functions: ["edgetalker.serve.fleet:add_service"]}
    applications: [{name: edgetalker, import_path: "edgetalker.serve.fleet:application", args: {talkers: 16}}]
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from edgetalker.engines.errors import OptionError, nearest
from edgetalker.engines.lazy import required
from edgetalker.runtime.web.admission import read_token
from edgetalker.serve.a2f import A2fService
from edgetalker.serve.a2f_messages import METHOD, SERVICE
from edgetalker.serve.batch import Batch, BatchOptions
from edgetalker.serve.options import Door

__all__ = ["Fleet", "Replica", "add_service", "application"]

BUSY = 0.75
"""Share of its talkers that a replica is meant to have busy; above it another replica is started."""

PACE = {"look_back_period_s": 15.0, "upscale_delay_s": 3.0, "downscale_delay_s": 300.0}
"""A talker that finds no place waits now, so replicas are started soon; they are ended late."""
LEAVE = 600.0
"""Seconds that a replica which is ended still gives the streams that it has."""


@dataclass(frozen=True)
class Fleet:
    """How many replicas there are and what each one plays.

    bundle: a folder that every machine has; None is the talker that ships. talkers: most at a time in one replica.
    replicas, most: how many replicas at least and at most, by how many talkers are busy. cpus, gpus: what Ray sets
    aside for a replica; with gpus it plays on cuda. schedule: always this one. voice: as in BatchOptions. token_file: a
    file that every machine has with the word that clients must show; Ray's proxies listen on every address of their
    machines. open: yes, without one. idle: seconds without a message that end a stream.
    """

    bundle: str | None = None
    talkers: int = 16
    replicas: int = 1
    most: int = 4
    cpus: float = 1.0
    gpus: float = 0.0
    schedule: str | None = None
    voice: str | None = None
    token_file: str | None = None
    open: bool = False
    idle: float = 60.0

    def check(self) -> None:
        """Raise OptionError for what cannot be."""
        if self.token_file is None and not self.open:
            raise OptionError(
                "a fleet listens on every address of its machines, and no token_file keeps others out",
                hint="token_file: FILE, or open: true where a network of your own does",
            )
        if not 0 <= self.replicas <= self.most or self.most < 1:
            raise OptionError(f"{self.replicas} to {self.most} replicas; replicas <= most was wanted")


class Replica:
    """One batch in a process of Ray's; its method is called for each stream."""

    def __init__(self, fleet: Fleet) -> None:
        """Open the model. Raises UserError."""
        token = read_token(Path(fleet.token_file)) if fleet.token_file is not None else ""
        options = BatchOptions(talkers=fleet.talkers, schedule=fleet.schedule, voice=fleet.voice)
        more: dict[str, Any] = {"device": "cuda"} if fleet.gpus else {}
        self._batch = Batch(fleet.bundle, options=options, **more).__enter__()
        self._service = A2fService(self._batch, Door(token=token, idle=fleet.idle))

    async def ProcessAudioStream(self, requests: AsyncIterator[bytes], grpc_context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answer one stream. Ray calls the method that has the name of the protocol's."""
        async for reply in self._service.process(requests, _Context(grpc_context)):
            yield reply

    def check_health(self) -> None:
        """Raise when the batch has ended; Ray then replaces this replica."""
        if self._batch.fault is not None:
            raise RuntimeError(f"the batch ended: {self._batch.fault}")

    def __del__(self) -> None:
        batch = getattr(self, "_batch", None)
        if batch is not None:
            batch.__exit__(None, None, None)


class _Context:
    """Of gRPC's context what the service uses, said through Ray's."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    async def abort(self, code: Any, text: str) -> NoReturn:
        self._context.set_code(code)
        self._context.set_details(text)
        raise RuntimeError(text)


def add_service(servicer: Any, server: Any) -> None:
    """Register the service at one of Ray Serve's proxies (`grpc_servicer_functions`)."""
    import grpc

    handler = grpc.stream_stream_rpc_method_handler(getattr(servicer, METHOD))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))


def application(args: Mapping[str, Any]) -> Any:
    """Return the Ray Serve application for a file's `args` (the fields of Fleet).

    Raises OptionError for what Fleet does not have, MissingPackageError without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing talks to anybody unasked
    known = [field.name for field in fields(Fleet)]
    for name in args:
        if name not in known:
            raise OptionError(f"no key `{name}`{nearest(name, known)}; known: {', '.join(known)}")
    fleet = Fleet(**args)
    fleet.check()
    serve = required("ray.serve", "a fleet", extra="ray", package="ray[serve]")
    deployment = serve.deployment(
        Replica,
        name="talkers",
        max_ongoing_requests=fleet.talkers,
        max_queued_requests=fleet.talkers * fleet.most,  # they wait for a place; more are told that there is none
        autoscaling_config={
            "min_replicas": fleet.replicas,
            "max_replicas": fleet.most,
            "target_ongoing_requests": fleet.talkers * BUSY,
            **PACE,
        },
        graceful_shutdown_timeout_s=LEAVE,
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
        health_check_period_s=5,
    )
    return deployment.bind(fleet)
