"""The Python side of the driver double: settings, failures, the log, and what lives."""

from __future__ import annotations

import ctypes
from typing import Any

from edgetalker.engines.cuda import driver, resources

__all__ = ["ORIGINS", "Double", "give_spare_streams_back", "start_over"]

ORIGINS = ("blocks", "host_blocks", "streams", "events", "captures", "graphs", "execs")
"""Kinds of things that must be gone after a device was closed, spare streams aside."""

_DEFAULTS = {
    "total_memory": 1 << 30,
    "integrated": 0,
    "devices": 1,
    "ops_per_query": 1,
    "op_cost_ns": 1000,
    "real_clock": 0,
    "log": 1,
    "driver_version": 13000,
    "at_once": 0,
    "unified": 0,
    "any_pitch": 1,
    "by_version": 0,
}


class Double:
    """libcuda.so.1 of this process, which must be the double."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libcuda.so.1")
        self._library.double_log_line.restype = ctypes.c_char_p
        self._library.double_log_line.argtypes = [ctypes.c_int64]
        self._library.double_last_violation.restype = ctypes.c_char_p
        self._library.double_host_address.restype = ctypes.c_void_p
        self._library.double_host_address.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        for name in ("double_log_count", "double_live", "double_violations"):
            getattr(self._library, name).restype = ctypes.c_int64

    def restart(self) -> None:
        """Forget failures, violations, settings and the log. What lives goes on living."""
        self._library.double_recover()
        for name, value in _DEFAULTS.items():
            self.set(name, value)
        self._library.double_log_clear()

    def recover(self) -> None:
        """Take back a failure and a lost context."""
        self._library.double_recover()

    def set(self, name: str, value: int) -> None:
        """Change a setting. Raises KeyError for an unknown one."""
        if self._library.double_set(name.encode(), ctypes.c_int64(value)):
            raise KeyError(name)

    def fail(self, entry: str, *, nth: int = 1, code: int = 719, sticky: bool = False) -> None:
        """Let the nth call of `entry` from now on fail; `execute` stands for the nth operation that runs."""
        self._library.double_fail(entry.encode(), ctypes.c_int64(nth), code, int(sticky))

    @property
    def failure_is_pending(self) -> bool:
        """Whether the failure has not come up yet."""
        return bool(self._library.double_fault_pending())

    def live(self) -> dict[str, int]:
        """Return how many of each kind live."""
        return {kind: int(self._library.double_live(kind.encode())) for kind in ORIGINS}

    def log(self) -> list[str]:
        """Return every call since the last restart, `ENTRY argument=…`."""
        return [self._library.double_log_line(i).decode() for i in range(self._library.double_log_count())]

    def entries(self) -> list[str]:
        """Return the names of every call since the last restart."""
        return [line.split(" ", 1)[0] for line in self.log()]

    def clear_log(self) -> None:
        """Forget the log."""
        self._library.double_log_clear()

    def violations(self) -> tuple[int, str]:
        """Return how often something was done that a GPU would punish or not tell, and the last of them."""
        return int(self._library.double_violations()), self._library.double_last_violation().decode()

    def host_address(self, address: int, nbytes: int) -> int:
        """Return where device memory lies in this process. Raises ValueError for what is no live memory."""
        found = self._library.double_host_address(address, nbytes)
        if not found:
            raise ValueError(f"{nbytes} bytes at {address:#x} are no live device memory")
        return int(found)

    def create_context(self) -> int:
        """Make a context that is not the primary one, current on this thread, as pycuda.autoinit does."""
        made = ctypes.c_void_p()
        assert self._library.cuCtxCreate_v2(ctypes.byref(made), 0, 0) == 0
        return made.value or 0

    def count(self, kind: str) -> int:
        """Return how many of one kind live; `contexts` counts what retained a primary one."""
        return int(self._library.double_live(kind.encode()))


def give_spare_streams_back() -> None:
    """Destroy the streams that the process keeps for its next devices."""
    for gpu, spare in resources._spare_streams.items():
        calls = driver.Driver()
        with calls.visiting(gpu):
            while spare:
                calls.drop_stream(spare.pop())


def start_over(double: Double) -> None:
    """Begin as a new process would: the double holds nothing, and the package remembers nothing of it."""
    double.recover()
    resources._spare_streams.clear()
    resources._waiting.clear()
    driver._primary.clear()
    double._library.double_sweep()
