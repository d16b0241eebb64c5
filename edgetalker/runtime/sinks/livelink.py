"""The place of Live Link Face's sink until version 0.2, for programs that import it from here."""

from edgetalker.runtime.sinks.net.livelink import LiveLinkEncoder, LiveLinkSink, from_url

__all__ = ["LiveLinkEncoder", "LiveLinkSink", "from_url"]
