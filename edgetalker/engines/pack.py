"""Writes a bundle: all files at once, digests taken, checked as a reader would, or nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetalker.engines.bundle import MANIFEST, Bundle
from edgetalker.engines.engine import Array
from edgetalker.engines.errors import InputError
from edgetalker.engines.files import sha256_of
from edgetalker.engines.manifest import FORMAT, VERSION

__all__ = ["pack"]


def pack(
    path: Path | str,
    description: Mapping[str, Any],
    files: Mapping[str, bytes | Path | Array],
    *,
    replace: bool = False,
) -> Bundle:
    """Write a bundle folder and return it opened.

    description: the manifest without `format`, `version` and `files`, which are filled in here. files: name ->
    content, a path to copy, or an array that is stored as .npy. The folder is made beside `path` and renamed,
    so that it appears whole. Raises BundleError when the manifest contradicts itself or its files, InputError
    when `path` exists and `replace` is not set or it is not a bundle.
    """
    target = Path(path)
    _check_target(target, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        draft.chmod(0o755)
        for name, content in files.items():
            _write(draft / name, content)
        digests = {name: sha256_of(draft / name) for name in sorted(files)}
        document = {"format": FORMAT, "version": VERSION, **description, "files": digests}
        (draft / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        Bundle.open(draft)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Bundle.open(target)


def _check_target(target: Path, *, replace: bool) -> None:
    if not target.exists():
        return
    if not replace:
        raise InputError(f"{target} exists already", hint="name another folder, or add --force to replace it")
    if not (target / MANIFEST).is_file():
        raise InputError(f"{target} exists and is not a bundle, so it is not replaced", hint="name another folder")


def _write(path: Path, content: bytes | Path | Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        np.save(path, content, allow_pickle=False)


def _swap(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    os.replace(target, old / "bundle")  # noqa: PTH105 - a rename, never a copy
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
