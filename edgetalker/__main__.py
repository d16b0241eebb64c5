"""`python -m edgetalker` is the command `edgetalker`."""

from __future__ import annotations

from edgetalker.cli.main import main

raise SystemExit(main())
