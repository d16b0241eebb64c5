"""Makes tests/data/bundles/toy_artalk: python -m tests.export.make_toy_artalk [FOLDER]"""

from __future__ import annotations

import sys
from pathlib import Path

from edgetalker.export.artalk import ExportOptions, export_model
from edgetalker.export.streamingtalker import ExportReport
from edgetalker.models.artalk import model_from_tensors
from tests.support.artalk import TOY, TOY_BUNDLE, TOY_HEADS, checkpoint


def make(folder: Path) -> ExportReport:
    """Export the 25-frame variant with its defaults."""
    model = model_from_tensors(checkpoint(TOY), TOY_HEADS)
    return export_model(model, folder, ExportOptions(), name="toy", replace=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else TOY_BUNDLE)
