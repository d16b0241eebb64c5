"""TLS with a certificate that the test makes: whoever trusts it is served, whoever does not speak it is not."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgetalker.engines.errors import InputError
from edgetalker.serve import Batch, BatchOptions
from edgetalker.serve.options import Address, Door

for package in ("onnx", "onnxruntime", "websockets", "grpc", "google.protobuf", "prometheus_client"):
    pytest.importorskip(package, reason=f"serving needs the package {package}")

import grpc  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402
from websockets.exceptions import InvalidMessage  # noqa: E402

from edgetalker.serve.a2f import A2fServer  # noqa: E402
from edgetalker.serve.a2f_messages import METHOD, SERVICE, messages  # noqa: E402
from edgetalker.serve.server import WebServer  # noqa: E402

HERE = Address("127.0.0.1", 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that it signed itself, and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def batch() -> Any:
    with Batch(options=BatchOptions(talkers=1, schedule="one")) as batch:
        yield batch


def run(kind: Any, batch: Batch, pair: tuple[Path, Path], talk: Callable[[Any], Awaitable[None]]) -> None:
    async def both() -> None:
        async with kind(batch, HERE, Door(cert=pair[0], key=pair[1])) as server:
            await asyncio.wait_for(talk(server), 60)

    asyncio.run(both())


def test_http_and_websocket(batch: Batch, pair: tuple[Path, Path]) -> None:
    async def talk(server: WebServer) -> None:
        trusting = ssl.create_default_context(cafile=str(pair[0]))
        url = f"wss://127.0.0.1:{server.port}/v1/talk"
        async with connect(url, ssl=trusting) as ws:
            assert b"layout" in (await ws.recv(decode=False))
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(url, ssl=ssl.create_default_context())
        with pytest.raises((InvalidMessage, OSError)):
            await connect(url.replace("wss", "ws"))

    run(WebServer, batch, pair, talk)


def test_grpc(batch: Batch, pair: tuple[Path, Path]) -> None:
    kinds = messages()

    async def call(channel: Any) -> list[Any]:
        async def given() -> AsyncIterator[Any]:
            request = kinds["AudioWithEmotionStream"]()
            sound = request.audio_stream_header.audio_header
            sound.channel_count, sound.samples_per_second, sound.bits_per_sample = 1, 16000, 16
            yield request
            request = kinds["AudioWithEmotionStream"]()
            request.end_of_audio.SetInParent()
            yield request

        method = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kinds["A2F3DAnimationDataStream"].FromString,
        )
        return [answer async for answer in method(given())]

    async def talk(server: A2fServer) -> None:
        target = f"127.0.0.1:{server.port}"
        trusted = grpc.ssl_channel_credentials(pair[0].read_bytes())
        async with grpc.aio.secure_channel(target, trusted) as channel:
            answers = await call(channel)
            assert answers[-1].status.code == 0
        for other in (
            grpc.aio.insecure_channel(target),
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials()),
        ):
            async with other as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(channel)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    run(A2fServer, batch, pair, talk)


def test_a_key_of_another_certificate_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pair[0].read_bytes())
    with pytest.raises(InputError, match="PEM"):
        Door(cert=pair[0], key=tmp_path / "key.pem").tls()
