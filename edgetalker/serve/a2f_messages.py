"""The messages of NVIDIA's Audio2Face-3D gRPC service, described here so that no generated code is needed.

Numbers and types are what the service's clients put on the wire (published as nvidia-audio2face-3d 1.3.0 and nvidia-ace
1.0.0, whose own packages pin an old grpcio). The descriptions have a pool of their own, so that both can live in one
process. Fields that the server neither reads nor writes are left out; protobuf keeps and skips what it does not know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from edgetalker.engines.errors import MissingPackageError

__all__ = ["METHOD", "SERVICE", "messages"]

SERVICE = "nvidia_ace.services.a2f_controller.v1.A2FControllerService"
METHOD = "ProcessAudioStream"

_A2F = "com.nvidia.ace.services.audio2face_3d.v1"
_ANIMATION = "com.nvidia.ace.animation.v1"
_AUDIO = "com.nvidia.ace.audio.v1"
_STATUS = "com.nvidia.ace.status.v1"

_FILES: dict[str, dict[str, str]] = {
    _AUDIO: {
        "AudioHeader": "1 int32 audio_format; 2 uint32 channel_count; 3 uint32 samples_per_second; "
        "4 uint32 bits_per_sample",
    },
    _STATUS: {"Status": "1 int32 code; 2 string message"},
    _ANIMATION: {
        "FloatArrayWithTimeCode": "1 double time_code; 2 float* values",
        "AudioWithTimeCode": "1 double time_code; 2 bytes audio_buffer",
        "SkelAnimationHeader": "1 string* blend_shapes; 2 string* joints",
        "SkelAnimation": "1 FloatArrayWithTimeCode* blend_shape_weights",
        "AnimationData": "1 SkelAnimation skel_animation; 2 AudioWithTimeCode audio",
    },
    _A2F: {
        "FloatEntry": "1 string key; 2 float value",
        "FaceParameters": "1 FloatEntry* float_params",
        "BlendShapeParameters": (
            "1 FloatEntry* bs_weight_multipliers; 2 FloatEntry* bs_weight_offsets; 3 bool enable_clamping_bs_weight"
        ),
        "EmotionParameters": "1 float live_transition_time; 2 FloatEntry* beginning_emotion",
        "EmotionWithTimeCode": "1 double time_code; 2 FloatEntry* emotion",
        "AudioWithEmotion": "1 bytes audio_buffer; 2 EmotionWithTimeCode* emotions",
        "AudioWithEmotionStreamHeader": (
            f"1 {_AUDIO}.AudioHeader audio_header; 2 FaceParameters face_params; "
            "4 BlendShapeParameters blendshape_params; 5 EmotionParameters emotion_params"
        ),
        "EndOfAudio": "",
        "AudioWithEmotionStream": (
            "1 AudioWithEmotionStreamHeader audio_stream_header | stream_part; "
            "2 AudioWithEmotion audio_with_emotion | stream_part; 3 EndOfAudio end_of_audio | stream_part"
        ),
        "Event": "1 int32 event_type",
        "A2F3DAnimationDataStreamHeader": (
            f"1 {_AUDIO}.AudioHeader audio_header; 2 {_ANIMATION}.SkelAnimationHeader skel_animation_header; "
            "3 double start_time_code_since_epoch"
        ),
        "A2F3DAnimationDataStream": (
            "1 A2F3DAnimationDataStreamHeader animation_data_stream_header | stream_part; "
            f"2 {_ANIMATION}.AnimationData animation_data | stream_part; 3 Event event | stream_part; "
            f"4 {_STATUS}.Status status | stream_part"
        ),
    },
}
"""Package -> message -> fields: number, type (`*`: repeated), name, and after `|` the union that it belongs to. An enum
is an int32 and a map is repeated entries: they are the same on the wire."""


@lru_cache(maxsize=1)
def messages() -> dict[str, Any]:
    """Return the message classes by name. Raises MissingPackageError without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise MissingPackageError("protobuf", "serving over gRPC", extra="serve") from None
    kinds = descriptor_pb2.FieldDescriptorProto
    pool = descriptor_pool.DescriptorPool()
    done: list[str] = []
    for package, described in _FILES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        file.dependency.extend(done)
        for name, text in described.items():
            message = file.message_type.add(name=name)
            for part in filter(None, text.split("; ")):
                plain, _, union = part.partition(" | ")
                number, kind, field_name = plain.split()
                field = message.field.add(name=field_name, number=int(number))
                field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
                kind = kind.rstrip("*")
                if kind.islower() and "." not in kind:
                    field.type = getattr(kinds, f"TYPE_{kind.upper()}")
                else:
                    field.type = kinds.TYPE_MESSAGE
                    field.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"
                if union:
                    if not message.oneof_decl:
                        message.oneof_decl.add(name=union)
                    field.oneof_index = 0
        pool.Add(file)
        done.append(file.name)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for package, described in _FILES.items()
        for name in described
    }
