"""DLPack capsules (version 0, `DLManagedTensor`) over memory that this process owns.

Structures: dlpack.h of github.com/dmlc/dlpack, which every array library shares.
"""

from __future__ import annotations

import ctypes
from itertools import count
from typing import Any

from edgetalker.engines.engine import DTYPES, TensorSpec

__all__ = ["CPU", "CUDA", "capsule"]

CPU, CUDA = 1, 2
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_alive: dict[int, tuple[Any, ...]] = {}
"""What a consumer still holds, by the number in its context field."""
_numbers = count(1)


def _delete(managed: int) -> None:
    _alive.pop(_Managed.from_address(managed).context, None)


def _drop_unused(handle: int) -> None:
    """Free what no consumer took: one that took it has renamed the capsule to `used_dltensor`."""
    if _is_valid(handle, _NAME):
        _delete(_pointer(handle, _NAME))


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop_unused)
_make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def capsule(address: int, spec: TensorSpec, device: tuple[int, int], owner: object) -> object:
    """Return a capsule of dense memory at `address`; `owner` lives until the consumer lets go."""
    dtype = DTYPES[spec.dtype]
    shape = (ctypes.c_int64 * len(spec.shape))(*spec.shape)
    number = next(_numbers)
    managed = _Managed(
        _Tensor(address, *device, len(spec.shape), _CODES[dtype.kind], dtype.itemsize * 8, 1, shape, None, 0),
        number,
        ctypes.cast(_deleter, ctypes.c_void_p),
    )
    _alive[number] = (managed, shape, owner)
    result: object = _make(ctypes.addressof(managed), _NAME, ctypes.cast(_destructor, ctypes.c_void_p))
    return result
