"""What TensorRT-RTX can say about a plan from its header, with a GPU or without."""

from __future__ import annotations

from typing import Any

from edgetalker.engines.tensorrt.api import Api
from edgetalker.engines.tensorrt.log import log_of

__all__ = ["check_header", "header_faults"]


def header_faults(api: Api, runtime: Any, plan: bytes) -> list[str]:
    """Return the names of what is wrong with a plan's header here; empty when well formed or nothing is known.

    Without a GPU the library calls every plan invalid and gives no diagnosis, unless the header is malformed.
    """
    if not api.has("Runtime.get_engine_validity"):
        return []
    validity, diagnostics = runtime.get_engine_validity(plan)
    if validity != api.module.EngineValidity.INVALID:
        return []
    kinds = api.module.EngineInvalidityDiagnostics.__members__.values()
    return [kind.name for kind in kinds if int(kind) & int(diagnostics)]


def check_header(api: Api, plan: bytes) -> list[str]:
    """Return the faults of a plan's header without a GPU. Only for `rtx`, whose Runtime is safe without a driver."""
    if api.flavour != "rtx":
        return []
    log = log_of(api)
    log.clear()
    return header_faults(api, api.module.Runtime(log.logger), plan)
