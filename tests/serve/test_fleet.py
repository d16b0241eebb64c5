"""The service on a Ray of this machine: a second replica is started for busy talkers, one is killed, streams go on.

The client is NVIDIA's (nvidia-audio2face-3d 1.3.0).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.errors import OptionError
from edgetalker.serve.fleet import application

for package in ("onnx", "onnxruntime", "grpc", "google.protobuf", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving over gRPC needs the package {package}")

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-that-is-long-enough"
PACKET = bytes(1280)  # 40 ms


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "no token_file"),
        ({"open": True, "talker": 4}, r"no key `talker` \(did you mean `talkers`"),
        ({"open": True, "replicas": 5, "most": 4}, "5 to 4 replicas"),
    ],
)
def test_what_a_fleet_cannot_be(args: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        application(args)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A Ray on this machine that serves; the gRPC port."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray", reason="a fleet needs Ray (extra `ray`)")
    serve = pytest.importorskip("ray.serve", reason="a fleet needs ray[serve] (extra `ray`)")
    pytest.importorskip("nvidia_audio2face_3d", reason="the client is NVIDIA's (nvidia-audio2face-3d 1.3.0)")
    from ray.serve.config import gRPCOptions

    (tmp_path / "token").write_text(TOKEN)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        log_to_driver=False,
    )
    try:
        port = free_port()
        serve.start(
            http_options={"host": "127.0.0.1", "port": free_port()},
            grpc_options=gRPCOptions(port=port, grpc_servicer_functions=["edgetalker.serve.fleet:add_service"]),
        )
        args = {"talkers": 2, "replicas": 1, "most": 2, "cpus": 0.5, "schedule": "one"}
        serve.run(application({**args, "token_file": str(tmp_path / "token")}), name="edgetalker")
        yield port
        serve.shutdown()
    finally:
        ray.shutdown()


class Client:
    """One stream that speaks without end, and the times of the frames that it got."""

    def __init__(self, channel: Any, seconds: float = 1e9, token: str = TOKEN) -> None:
        from nvidia_audio2face_3d import audio2face_pb2_grpc

        self.times, self.seconds = list[float](), seconds
        stub: Any = audio2face_pb2_grpc.A2FControllerServiceStub(channel)  # type: ignore[no-untyped-call]
        self.call = stub.ProcessAudioStream(self._speak(), metadata=(("authorization", f"Bearer {token}"),))
        self.task = asyncio.create_task(self._listen())

    async def _speak(self) -> AsyncIterator[Any]:
        from nvidia_ace.audio_pb2 import AudioHeader
        from nvidia_audio2face_3d import messages_pb2 as kinds

        stream = kinds.AudioWithEmotionStream
        sound = AudioHeader(channel_count=1, samples_per_second=16000, bits_per_sample=16)
        yield stream(audio_stream_header=kinds.AudioWithEmotionStreamHeader(audio_header=sound))
        for _ in range(int(min(self.seconds * 25, 1e9))):
            yield stream(audio_with_emotion=kinds.AudioWithEmotion(audio_buffer=PACKET))
            await asyncio.sleep(0.04)
        yield stream(end_of_audio=stream.EndOfAudio())

    async def _listen(self) -> Any:
        """Return the status message, or raise what the call ended with."""
        last: Any = None
        async for answer in self.call:
            last = answer
            self.times += [row.time_code for row in answer.animation_data.skel_animation.blend_shape_weights]
        return last.status

    @property
    def whole(self) -> bool:
        """Whether each frame from the first on came, once."""
        return [round(time * 30) for time in self.times] == list(range(len(self.times)))


async def until(true: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not true():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_replica_is_killed_its_clients_come_back_and_the_others_never_notice(fleet: int) -> None:
    import grpc
    import ray

    def replicas() -> list[str]:
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        return [name for name in names if name.startswith("SERVE_REPLICA::edgetalker")]

    async def talk() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{fleet}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Client(channel, 0.1, token="wrong").task
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert len(replicas()) == 1
            clients = [Client(channel) for _ in range(4)]  # two more than a replica plays: another one is started
            await until(lambda: all(len(client.times) > 5 for client in clients))
            assert len(replicas()) == 2

            ray.kill(ray.get_actor(replicas()[0], namespace="serve"))
            await until(lambda: sum(client.task.done() for client in clients) == 2)
            fell = [client for client in clients if client.task.done()]
            stay = [client for client in clients if not client.task.done()]
            for client in fell:
                fault = client.task.exception()
                assert isinstance(fault, grpc.aio.AioRpcError)
                assert fault.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), fault
            back = [Client(channel, 1.0) for _ in fell]  # for these a new replica is started
            before = [len(client.times) for client in stay]
            for client in back:
                status = await asyncio.wait_for(client.task, 300)
                assert status.code == 0
                assert len(client.times) == 30
                assert client.whole
            await until(lambda: all(len(client.times) > count + 30 for client, count in zip(stay, before, strict=True)))
            for client in stay:
                assert not client.task.done()
                assert client.whole
                client.call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await client.task

    asyncio.run(talk())
