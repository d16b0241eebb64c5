"""Run by PyInstaller: commands are imported by their names, and bundles, sounds and pages are data."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

# What makes bundles needs PyTorch; a program that plays them does not.
_MAKERS = ("edgetalker.models", "edgetalker.export", "edgetalker.calibration", "edgetalker.frozen")

hiddenimports = collect_submodules("edgetalker", filter=lambda name: not name.startswith(_MAKERS))
datas = collect_data_files("edgetalker")
