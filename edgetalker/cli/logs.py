"""Messages as lines for people, or as JSON for what collects them: one object a line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

__all__ = ["FORMS", "complain", "log_as", "say"]

FORMS = ("text", "json")
_log = logging.getLogger("edgetalker.run")


class JsonLines(logging.Formatter):
    """`{"time": "2026-11-26T20:00:00.123Z", "level": "warning", "logger": "edgetalker.outputs", "message": "…"}`, and
    whatever `extra={"fields": {…}}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc)
        words = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            words["traceback"] = self.formatException(record.exc_info)
        return json.dumps(words, default=str)


class Lines(logging.Formatter):
    """What is told as it happens stands alone; what is wrong is called by its level."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}"


def log_as(form: str, *, quiet: bool = False) -> None:
    """Write messages to stderr in a form of FORMS; quiet: only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    _log.setLevel(logging.WARNING if quiet else logging.INFO)


def say(message: str, **fields: object) -> None:
    """Tell how a run goes; fields are what a collector gets beside the words."""
    _log.info("%s", message, extra={"fields": fields})


def complain(message: str, hint: str | None, code: int) -> bool:
    """Log why a command ends, where messages are JSON; False where they are text, which has a form of its own."""
    if not any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        return False
    _log.error("%s", message, extra={"fields": {"hint": hint, "exit_code": code}})
    return True
