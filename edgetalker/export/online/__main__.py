"""The recipe's last stage: `python -m edgetalker.export.online --work WORK --out BUNDLE`."""

from __future__ import annotations

from edgetalker.export.online.exporter import main

if __name__ == "__main__":
    raise SystemExit(main())
