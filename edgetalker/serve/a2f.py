"""NVIDIA's Audio2Face-3D service over gRPC: what Unreal's ACE plug-in and other clients of the NIM already speak.

A stream is an utterance: header, sound with emotions, end of audio; back come a header with the shapes' names, weights
with time codes and the sound beside them, an event and a status. Cancelling the call is barge-in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetalker.engines.errors import DeviceError, InputError, OptionError, UserError
from edgetalker.engines.lazy import required
from edgetalker.runtime.sources.convert import CHANNELS, RATES
from edgetalker.serve.a2f_messages import METHOD, SERVICE, messages
from edgetalker.serve.batch import Batch
from edgetalker.serve.metrics import Metrics
from edgetalker.serve.options import Address, Door
from edgetalker.serve.seat import Event
from edgetalker.serve.session import Session

__all__ = ["A2fServer", "A2fService", "map_emotions"]

_log = logging.getLogger("edgetalker.serve.a2f")
PATIENCE = 2.0
"""Seconds that a refused client may still send before it is cut off."""
_SHAPES = 52
_SUCCESS, _ERROR = 0, 3  # of Status.Code
_DTYPES = {8: "<u1", 16: "<i2", 32: "<i4"}
_EMOTIONS = {
    "joy": ("joy", "happy", "amazement"), "sadness": ("sadness", "grief", "pain"), "anger": ("anger", "disgust"),
    "surprise": ("surprise", "amazement", "fear"),
}  # fmt: skip
"""Our emotion -> those of Audio2Face that it stands for; the largest counts. `outofbreath`, `cheekiness` have none."""


def map_emotions(given: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """Return a control's values for a client's emotions, 0 to 1; those that the bundle does not have are left out."""
    found = {}
    for name in names:
        values = [float(given[other]) for other in _EMOTIONS.get(name, (name,)) if other in given]
        found[name] = min(max(max(values, default=0.0), 0.0), 1.0)
    return found


class A2fServer:
    """Serves a batch over gRPC. Use with `async with`; `port` is where it listens."""

    def __init__(self, batch: Batch, where: Address, door: Door | None = None, metrics: Metrics | None = None) -> None:
        """Raises OptionError for an address that other machines reach without a token, or for a bundle that makes no
        ARKit shapes."""
        self.where, self.door = where, door or Door()
        self.door.check(where)
        self._service = A2fService(batch, self.door, metrics)
        self.port = where.port

    async def __aenter__(self) -> A2fServer:
        """Listen. Raises DeviceError when the port is taken, MissingPackageError without grpcio."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr what is raised here as well
        grpc = required("grpc", "serving over gRPC", extra="serve", package="grpcio")
        messages()  # says now that protobuf is missing
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=self.door.connections,
            options=[
                ("grpc.max_receive_message_length", max(self.door.message, 1 << 22)),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a replica
            ],
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._service.process,
            response_serializer=lambda message: message.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})])
        try:
            self.port = self._listen(grpc)
        except RuntimeError:
            hint = "another program may use the port; choose another one"
            raise DeviceError(f"gRPC cannot listen on {self.where}", hint=hint) from None
        await self._server.start()
        return self

    def _listen(self, grpc: Any) -> int:
        if self.door.cert is None or self.door.key is None:
            return int(self._server.add_insecure_port(str(self.where)))
        self.door.tls()  # says what is wrong with the files
        pair = self.door.key.read_bytes(), self.door.cert.read_bytes()
        return int(self._server.add_secure_port(str(self.where), grpc.ssl_server_credentials([pair])))

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(1.0)


class A2fService:
    """What answers a stream, whoever carries it: the server above, or a fleet (fleet.py)."""

    def __init__(self, batch: Batch, door: Door, metrics: Metrics | None = None) -> None:
        """Raises OptionError for a bundle that makes no ARKit shapes."""
        if batch.layout.kind != "arkit":
            raise OptionError(
                f"the bundle makes `{batch.layout.kind}` motion; Audio2Face's clients want ARKit's shapes",
                hint="serve it over WebSocket alone: --http without --grpc",
            )
        self.batch, self.door = batch, door
        self.metrics = metrics or Metrics(batch)

    async def process(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answer one stream of messages, as they came over the wire.

        Of gRPC's context, `invocation_metadata` and `abort` are used.
        """
        import grpc

        shown = dict(context.invocation_metadata() or ())
        if not self.door.admits(str(shown.get("authorization", "")).removeprefix("Bearer ")):
            self.metrics.refused.labels("wrong token").inc()
            await _end(requests, context, grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        kinds = messages()
        reply = kinds["A2F3DAnimationDataStream"]
        given = _read_messages(requests)
        try:
            header = await self._header(given)
            stream = _Stream(self.batch, header, self.door.idle)
            rest = self.batch.options.voice is not None
            async with self.batch.session(paced=False, rest=rest, stream=secrets.randbits(32)) as session:
                yield reply(animation_data_stream_header=stream.answer())
                async for data in stream.talk(session, given, self.metrics):
                    yield reply(animation_data=data)
            yield reply(event=kinds["Event"](event_type=0))
            yield reply(status=kinds["Status"](code=_SUCCESS, message="the whole sound was animated"))
        except DeviceError as error:
            self.metrics.refused.labels("no talker is free").inc()
            await _end(requests, context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except UserError as error:
            self.metrics.refused.labels("message").inc()
            yield reply(status=kinds["Status"](code=_ERROR, message=str(error)))
            await _end(requests, context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _header(self, requests: AsyncIterator[Any]) -> Any:
        try:
            first = await asyncio.wait_for(anext(requests), self.door.idle)
        except StopAsyncIteration:
            raise InputError("the stream ended before its header") from None
        except (asyncio.TimeoutError, TimeoutError):
            raise InputError(f"no header came for {self.door.idle:g} s") from None
        if first.WhichOneof("stream_part") != "audio_stream_header":
            raise InputError("the first message must be the audio_stream_header")
        return first.audio_stream_header


async def _read_messages(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Yield a client's messages. Raises InputError for bytes that are none.

    gRPC would read them itself, but tells the client of such bytes as UNKNOWN and the log with a traceback.
    """
    from google.protobuf.message import DecodeError

    kind = messages()["AudioWithEmotionStream"]
    async for data in requests:
        try:
            message = kind.FromString(data)
        except DecodeError:
            raise InputError(f"{len(data)} bytes that are no message; an AudioWithEmotionStream was wanted") from None
        yield message


async def _end(requests: AsyncIterator[bytes], context: Any, code: Any, text: str) -> None:
    """End a call with a code, once the client has sent all or the patience is over.

    gRPC's own asyncio client puts INTERNAL in the place of a code that came while it was still writing
    (https://github.com/grpc/grpc/issues/36066), so what it still sends is read and dropped.
    """

    async def drop() -> None:
        async for _ in requests:
            pass

    with suppress(asyncio.TimeoutError, TimeoutError):
        await asyncio.wait_for(drop(), PATIENCE)
    await context.abort(code, text)


class _Stream:
    """One call's header, and the sound that goes back beside the frames that show it."""

    def __init__(self, batch: Batch, header: Any, idle: float) -> None:
        """Raises InputError for sound that is no PCM of 8, 16 or 32 bits, or an unknown shape in the header."""
        sound = header.audio_header
        self._batch, self._header, self._idle = batch, header, idle
        self.rate, self._channels = sound.samples_per_second, sound.channel_count
        faults = []
        if sound.audio_format != 0:
            faults.append("only AUDIO_FORMAT_PCM is played")
        if sound.bits_per_sample not in _DTYPES:
            faults.append(f"{sound.bits_per_sample} bits a sample; 8, 16 or 32 were wanted")
        if not RATES[0] <= self.rate <= RATES[1]:
            faults.append(f"{self.rate} samples a second; {RATES[0]} to {RATES[1]} were wanted")
        if not 1 <= self._channels <= CHANNELS:
            faults.append(f"{self._channels} channels; 1 to {CHANNELS} were wanted")
        self._names = batch.layout.names[:_SHAPES]
        self._gains, self._offsets = np.ones(_SHAPES, np.float32), np.zeros(_SHAPES, np.float32)
        shapes = header.blendshape_params
        for entries, into in ((shapes.bs_weight_multipliers, self._gains), (shapes.bs_weight_offsets, self._offsets)):
            for entry in entries:
                if entry.key not in self._names:
                    faults.append(f"no shape `{entry.key[:50]}`")
                else:
                    into[self._names.index(entry.key)] = entry.value
        if faults:
            raise InputError("; ".join(faults))
        self._clamp = shapes.enable_clamping_bs_weight
        self._bytes = self._channels * sound.bits_per_sample // 8
        self._dtype = _DTYPES[sound.bits_per_sample]
        self._waiting = bytearray()  # sound that has not gone back yet
        self._back = 0  # bytes that have
        self._rest = b""  # the first part of a sample whose second part comes with the next message

    def answer(self) -> Any:
        """Return the animation's header."""
        kinds = messages()
        return kinds["A2F3DAnimationDataStreamHeader"](
            audio_header=self._header.audio_header,
            skel_animation_header=kinds["SkelAnimationHeader"](blend_shapes=self._names),
            start_time_code_since_epoch=time.time(),
        )

    async def talk(self, session: Session, requests: AsyncIterator[Any], metrics: Metrics) -> AsyncIterator[Any]:
        """Yield the frames, while the sound is taken beside them."""
        reader = asyncio.create_task(self._read(session, requests))
        reader.add_done_callback(lambda task: task.cancelled() or task.exception())  # who has gone is told nothing
        try:
            async for event in session.events():
                if event.error is not None:
                    raise event.error
                if event.frame is None:
                    break
                yield self._frame(event)
                metrics.latency.labels("grpc").observe(event.latency_ns * 1e-9)
                if reader.done() and reader.exception() is not None:
                    break
            await reader
            if self._waiting:
                yield messages()["AnimationData"](audio=self._sound(len(self._waiting)))
        finally:
            reader.cancel()

    def _frame(self, event: Event) -> Any:
        kinds = messages()
        assert event.frame is not None
        weights = event.frame.motion[:_SHAPES] * self._gains + self._offsets
        if self._clamp:
            weights = np.clip(weights, 0.0, 1.0)
        begin = float(event.time)
        row = kinds["FloatArrayWithTimeCode"](time_code=begin, values=weights.tolist())
        end = int((event.time + 1 / self._batch.layout.fps) * self.rate) * self._bytes
        return kinds["AnimationData"](
            skel_animation=kinds["SkelAnimation"](blend_shape_weights=[row]),
            audio=self._sound(max(end - self._back, 0)),
        )

    def _sound(self, count: int) -> Any:
        piece = bytes(self._waiting[:count])
        del self._waiting[:count]
        at = self._back / self._bytes / self.rate
        self._back += len(piece)
        return messages()["AudioWithTimeCode"](time_code=at, audio_buffer=piece)

    async def _read(self, session: Session, requests: AsyncIterator[Any]) -> None:
        """Take sound and emotions until the end of audio. A fault ends the utterance, and is raised when awaited."""
        try:
            self._emote(session, {e.key: e.value for e in self._header.emotion_params.beginning_emotion}, 0.0)
            while True:
                try:
                    message = await asyncio.wait_for(anext(requests), self._idle)
                except StopAsyncIteration:
                    break
                except (asyncio.TimeoutError, TimeoutError):
                    raise InputError(f"nothing came for {self._idle:g} s") from None
                part = message.WhichOneof("stream_part")
                if part == "end_of_audio":
                    break
                if part != "audio_with_emotion":
                    raise InputError(f"`{part}` where audio_with_emotion or end_of_audio was wanted")
                for emotions in message.audio_with_emotion.emotions:
                    self._emote(session, {e.key: e.value for e in emotions.emotion}, emotions.time_code)
                await session.push(self._decoded(message.audio_with_emotion.audio_buffer), self.rate)
            if self._rest:
                whole = f"whole samples of {self._bytes} bytes (all channels) were wanted"
                raise InputError(f"the sound ends with {len(self._rest)} bytes of a sample; {whole}")
        finally:
            # Something must come back for `talk` to end by, even when there was no sound.
            await session.push(np.zeros(0, np.float32), self.rate)
            session.flush()

    def _decoded(self, data: bytes) -> NDArray[Any]:
        data = self._rest + data
        whole = len(data) - len(data) % self._bytes
        data, self._rest = data[:whole], data[whole:]
        self._waiting += data
        return np.frombuffer(data, self._dtype).reshape(-1, self._channels)

    def _emote(self, session: Session, emotions: Mapping[str, float], at: float) -> None:
        control = self._batch.controls.get("emotion")
        if emotions and control is not None:
            session.set("emotion", map_emotions(emotions, control.names), time=at)
