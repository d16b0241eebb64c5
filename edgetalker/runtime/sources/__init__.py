"""Where sound comes from: files, a pipe, a microphone. What a source is: `edgetalker.runtime.frame.Source`."""

from __future__ import annotations
