"""The Audio2Face-3D service, spoken to by NVIDIA's own client stubs."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgetalker
from edgetalker.engines.errors import DeviceError, OptionError
from edgetalker.serve import Batch, BatchOptions, a2f
from edgetalker.serve.a2f import A2fServer, map_emotions
from edgetalker.serve.a2f_messages import METHOD, SERVICE
from edgetalker.serve.options import Address, Door
from tests.support.negatives import negative

for package in ("onnx", "onnxruntime", "grpc", "google.protobuf", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving over gRPC needs the package {package}")
pytest.importorskip("nvidia_audio2face_3d", reason="the client is NVIDIA's (nvidia-audio2face-3d 1.3.0)")

import grpc  # noqa: E402
from nvidia_ace.audio_pb2 import AudioHeader  # noqa: E402
from nvidia_audio2face_3d import audio2face_pb2_grpc, messages_pb2  # noqa: E402

VOCA = Path(__file__).parents[1] / "data" / "bundles" / "tiny_voca"
HERE = Address("127.0.0.1", 0)
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    with Batch(options=BatchOptions(talkers=3, schedule="one")) as batch:
        yield batch


def pcm(seconds: float) -> bytes:
    with wave.open(str(Path(edgetalker.__file__).parent / "data" / "speech.wav")) as file:
        return bytes(file.readframes(int(seconds * 16000)))


def run(batch: Batch, talk: Callable[[Any, A2fServer], Awaitable[None]], **door: Any) -> None:
    async def both() -> None:
        server = A2fServer(batch, HERE, Door(**door))
        async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = audio2face_pb2_grpc.A2FControllerServiceStub(channel)  # type: ignore[no-untyped-call]
            await asyncio.wait_for(talk(stub, server), 60)
        while batch.talking:
            await asyncio.sleep(0.01)

    asyncio.run(both())


def header(rate: int = 16000, bits: int = 16, channels: int = 1, **more: Any) -> Any:
    sound = AudioHeader(
        audio_format=AudioHeader.AUDIO_FORMAT_PCM, channel_count=channels, samples_per_second=rate, bits_per_sample=bits
    )
    return messages_pb2.AudioWithEmotionStream(
        audio_stream_header=messages_pb2.AudioWithEmotionStreamHeader(audio_header=sound, **more)
    )


def sound(data: bytes, *emotions: tuple[float, dict[str, float]]) -> Any:
    timed = [messages_pb2.EmotionWithTimeCode(time_code=at, emotion=values) for at, values in emotions]
    return messages_pb2.AudioWithEmotionStream(
        audio_with_emotion=messages_pb2.AudioWithEmotion(audio_buffer=data, emotions=timed)
    )


def end() -> Any:
    return messages_pb2.AudioWithEmotionStream(end_of_audio=messages_pb2.AudioWithEmotionStream.EndOfAudio())


async def utterance(stub: Any, *requests: Any, **options: Any) -> list[Any]:
    async def given() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [answer async for answer in stub.ProcessAudioStream(given(), **options)]


def weights(answers: list[Any]) -> tuple[list[float], np.ndarray[Any, Any]]:
    rows = [row for a in answers for row in a.animation_data.skel_animation.blend_shape_weights]
    return [row.time_code for row in rows], np.array([row.values for row in rows], np.float32)


def test_an_utterance(batch: Batch) -> None:
    data = pcm(1.0)

    async def talk(stub: Any, server: A2fServer) -> None:
        pieces = [sound(data[start : start + 1111]) for start in range(0, len(data), 1111)]
        answers = await utterance(stub, header(), *pieces, end())
        kinds = [answer.WhichOneof("stream_part") for answer in answers]
        assert kinds[0] == "animation_data_stream_header"
        assert set(kinds[1:-2]) == {"animation_data"}
        assert kinds[-2:] == ["event", "status"]
        assert answers[-2].event.event_type == messages_pb2.EventType.END_OF_A2F_AUDIO_PROCESSING
        assert answers[-1].status.code == 0
        head = answers[0].animation_data_stream_header
        assert list(head.skel_animation_header.blend_shapes) == list(batch.layout.names[:52])
        assert head.audio_header.samples_per_second == 16000
        assert head.start_time_code_since_epoch > 1.6e9
        times, values = weights(answers)
        assert times == pytest.approx(np.arange(30) / 30)
        assert values.shape == (30, 52)
        audio = [answer.animation_data.audio for answer in answers if answer.HasField("animation_data")]
        assert b"".join(piece.audio_buffer for piece in audio) == data
        assert audio[15].time_code == pytest.approx(0.5, abs=1e-4)

    run(batch, talk)


@pytest.mark.parametrize("voice", ["silero", None])
def test_music_moves_the_mouth_unless_a_detector_knows_it(voice: str | None) -> None:
    music = (negative("chords", 2.0) * 32767).astype("<i2").tobytes()

    async def talk(stub: Any, server: A2fServer) -> None:
        jaw = weights(await utterance(stub, header(), sound(music), end()))[1][:, 17]
        assert len(jaw) == 60
        assert (jaw.max() > 0.05) == (voice is None), jaw.max()

    with Batch(options=BatchOptions(talkers=1, schedule="one", voice=voice)) as batch:
        run(batch, talk)


def test_frames_are_a_single_talkers(batch: Batch) -> None:
    """The stream's noise is the server's choice, so the schedule `one` without head and blinks is compared: the jaw."""

    async def talk(stub: Any, server: A2fServer) -> None:
        both = await asyncio.gather(*(utterance(stub, header(), sound(pcm(1.0)), end()) for _ in range(3)))
        with batch.model.talker(schedules=["one"]) as alone:
            frames = alone.accept(np.frombuffer(pcm(1.0), "<i2")) + alone.flush()
        jaw = np.array([frame.motion[17] for frame in frames])
        for answers in both:
            assert np.corrcoef(weights(answers)[1][:, 17], jaw)[0, 1] > 0.95

    run(batch, talk)


@pytest.mark.parametrize(("rate", "bits", "channels"), [(48000, 16, 2), (24000, 32, 1), (8000, 8, 1)])
def test_other_sound_is_resampled(batch: Batch, rate: int, bits: int, channels: int) -> None:
    data = bytes(rate // 2 * channels * bits // 8)

    async def talk(stub: Any, server: A2fServer) -> None:
        answers = await utterance(stub, header(rate, bits, channels), sound(data[:1001]), sound(data[1001:]), end())
        times, _ = weights(answers)
        assert times == pytest.approx(np.arange(15) / 30)
        back = b"".join(answer.animation_data.audio.audio_buffer for answer in answers)
        assert back == data

    run(batch, talk)


def test_emotions_and_shapes(batch: Batch) -> None:
    async def talk(stub: Any, server: A2fServer) -> None:
        plain = weights(await utterance(stub, header(), sound(pcm(2.0)), end()))[1]
        joyful = weights(await utterance(stub, header(), sound(pcm(2.0), (1.0, {"joy": 1.0})), end()))[1]
        smile = batch.layout.names.index("MouthSmileLeft")
        assert joyful[45:, smile].mean() > plain[45:, smile].mean() + 0.1
        assert abs(joyful[:28, smile].mean() - plain[:28, smile].mean()) < 0.05
        params = messages_pb2.BlendShapeParameters(
            bs_weight_multipliers={"JawOpen": 0.0}, bs_weight_offsets={"JawOpen": 2.0}, enable_clamping_bs_weight=True
        )
        changed = weights(await utterance(stub, header(blendshape_params=params), sound(pcm(0.5)), end()))[1]
        assert (changed[:, 17] == 1.0).all()

    run(batch, talk)


def test_what_is_wrong_is_answered(batch: Batch) -> None:
    async def talk(stub: Any, server: A2fServer) -> None:
        cases = {
            "12 bits": [header(bits=12)],
            "0 channels; 1 to": [header(channels=0), sound(pcm(0.1)), end()],
            "ends with 1 bytes of a sample; whole samples of 2 bytes": [header(), sound(b"abc"), end()],
            "ends with 3 bytes of a sample; whole samples of 4 bytes": [header(channels=2), sound(b"abc")],
            "first message": [sound(pcm(0.1))],
            "before its header": [],
            "where audio_with_emotion": [header(), header()],
        }
        for text, requests in cases.items():
            with pytest.raises(grpc.aio.AioRpcError) as fault:
                await utterance(stub, *requests)
            assert fault.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert text in fault.value.details()
        assert len(weights(await utterance(stub, header(), end()))[0]) == 0

    run(batch, talk)


def test_bytes_that_are_no_message_are_answered_and_leave_the_log_alone(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(stub: Any, server: A2fServer) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            raw = SimpleNamespace(ProcessAudioStream=channel.stream_stream(f"/{SERVICE}/{METHOD}"))
            for good in ([], [header().SerializeToString()]):
                with pytest.raises(grpc.aio.AioRpcError) as fault:
                    await utterance(raw, *good, b"\xff" * 50)
                assert fault.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert fault.value.details() == "50 bytes that are no message; an AudioWithEmotionStream was wanted"

    run(batch, talk)
    assert not caplog.text


def test_cancelling_is_barge_in_and_taken_seats_are_said(batch: Batch) -> None:
    async def talk(stub: Any, server: A2fServer) -> None:
        async def endless() -> AsyncIterator[Any]:
            yield header()
            while True:
                yield sound(pcm(0.1))
                await asyncio.sleep(0.05)

        calls = [stub.ProcessAudioStream(endless()) for _ in range(3)]
        for call in calls:
            for _ in range(3):
                await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await utterance(stub, header(), sound(pcm(0.1)), end())
        assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        calls[0].cancel()
        while len(batch.talking) == 3:
            await asyncio.sleep(0.01)
        assert len(weights(await utterance(stub, header(), sound(pcm(0.5)), end()))[0]) == 15
        for call in calls[1:]:
            call.cancel()

    run(batch, talk)


def test_only_with_the_token(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2f, "PATIENCE", 60.0)  # however slow the machine is, the client has sent all by then

    async def talk(stub: Any, server: A2fServer) -> None:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as fault:
                await utterance(stub, header(), sound(pcm(0.1)), end())
            assert fault.value.code() == grpc.StatusCode.UNAUTHENTICATED
        await utterance(stub, header(), end(), metadata=(("authorization", f"Bearer {TOKEN}"),))

    run(batch, talk, token=TOKEN)


def test_a_refused_client_that_never_stops_is_cut_off(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a2f, "PATIENCE", 0.1)

    async def talk(stub: Any, server: A2fServer) -> None:
        async def endless() -> AsyncIterator[Any]:
            while True:
                yield sound(pcm(0.01))
                await asyncio.sleep(0.01)

        call = stub.ProcessAudioStream(endless())
        # INTERNAL: https://github.com/grpc/grpc/issues/36066, of the client alone.
        assert await call.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL)

    run(batch, talk, token=TOKEN)


def test_doors_and_bundles_that_do_not_fit(batch: Batch) -> None:
    async def twice() -> None:
        async with A2fServer(batch, HERE) as server:
            with pytest.raises(DeviceError, match="cannot listen"):
                async with A2fServer(batch, Address("127.0.0.1", server.port)):
                    pass

    asyncio.run(twice())
    with pytest.raises(OptionError, match="everybody on the network"):
        A2fServer(batch, Address("0.0.0.0", 0))
    with Batch(VOCA, options=BatchOptions(talkers=1)) as other, pytest.raises(OptionError, match="ARKit"):
        A2fServer(other, HERE)


def test_emotions_by_name() -> None:
    names = ("joy", "sadness", "anger", "surprise")
    assert map_emotions({"grief": 0.5, "joy": 2.0}, names) == {
        "joy": 1.0,
        "sadness": 0.5,
        "anger": 0.0,
        "surprise": 0.0,
    }
