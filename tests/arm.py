"""Plays the shipped talker on an emulated ARM core and compares its motion with this machine's, frame by frame.

python -m tests.arm [BUNDLE ...]        # make test-arm

The core is qemu's (`apt-get install qemu-user`), a Cortex-A76 with dot products, as Orin's A78AE has them. What runs on
it are the ARM builds of Python (Debian's), NumPy and ONNX Runtime (wheels): it says what is computed, not how fast.
Without a bundle it is the shipped one, in FP32 and in 8 bits with everything narrow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgetalker.calibration.rollout import play
from edgetalker.engines.bundle import Bundle
from edgetalker.engines.ort import ort_engines
from edgetalker.runtime.model import find_bundle

ROOT = Path(__file__).resolve().parents[1]
FRAMES, CORE = 60, "cortex-a76"
LIMITS = {"fp32": 1e-4, "int8": 5e-3}  # of the motion's deviation; a rounding that falls otherwise moves 8 bits by 4e-4
CPUINFO = """processor : 0
Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer : 0x41
CPU architecture: 8
CPU variant : 0x4
CPU part : 0xd0b
CPU revision : 1
"""


def main(bundles: list[str]) -> int:
    """Compare every precision that these bundles have for a CPU; 1 when one differs by more than its limit."""
    qemu = shutil.which("qemu-aarch64")
    if qemu is None or shutil.which("apt-get") is None:
        print(
            "error: qemu-aarch64 and apt-get were wanted\nhint: apt-get install qemu-user, on Debian", file=sys.stderr
        )
        return 2
    from edgetalker.calibration.sound import sound_of

    failed = False
    with tempfile.TemporaryDirectory(prefix="edgetalker-arm-") as folder:
        work = Path(folder)
        command = _arm(work, qemu)
        np.save(work / "sound.npy", sound_of(None, 16000, 30.0)[10 * 16000 : 20 * 16000])
        for path in [find_bundle(name) for name in bundles] or [_narrow(work / "talker")]:
            for precision in ("fp32", *(name for name in Bundle.open(path).manifest.precisions if name in LIMITS)):
                motion = []
                for start in ([sys.executable], command):
                    out = work / "motion.npy"
                    given = ["-m", "tests.arm", "--play", str(path), precision, str(work / "sound.npy"), str(out)]
                    subprocess.run([*start, *given], cwd=ROOT, check=True)
                    motion.append(np.load(out).astype(np.float64))
                deviation = np.sqrt(np.mean(np.var(motion[0], axis=0)))
                error = float(np.sqrt(np.mean(np.square(motion[1] - motion[0]))) / deviation)
                failed |= not error < LIMITS[precision]
                print(f"{path.name} {precision}: {FRAMES} frames differ by {error:.1e} (limit {LIMITS[precision]:.0e})")
    return int(failed)


def _play(path: str, precision: str, sound: str, out: str) -> None:
    bundle = Bundle.open(Path(path))
    engines, schedule = ort_engines(bundle, precision, host=True), bundle.manifest.ladder[-1]
    np.save(out, play(bundle, engines, np.load(sound), FRAMES, schedule))


def _narrow(path: Path) -> Path:
    """Write the shipped talker with every product in 8 bits, fitted to little: half a minute."""
    from edgetalker.calibration.convert import ConvertOptions, convert

    options = ConvertOptions(precision="int8", seconds=4.0, goal=99.0, observed=40, kept=24, budget=5.0)
    convert(Bundle.open(find_bundle("talker")), options, output=path)
    return path


def _arm(work: Path, qemu: str) -> list[str]:
    """Return the command of an ARM Python with NumPy and ONNX Runtime, unpacked into a folder; nothing is installed."""
    root, site = work / "root", work / "site"
    for name in ("lists/partial", "cache/archives/partial", "root/proc", "root/sys/devices/system/cpu"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    packages = ["python3", "libstdc++6", "libgomp1"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", "--download-only", *packages], check=True)
    for package in (work / "cache/archives").glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    (python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", f"--target={site}"]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)]
    version = f"--python-version={python.name.removeprefix('python')}"
    subprocess.run([*pip, *platforms, version, "numpy", "onnxruntime"], check=True)
    # ONNX Runtime looks here for what the core can do; qemu shows it the host's otherwise.
    (root / "proc/cpuinfo").write_text(CPUINFO)
    for name in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0\n")
    variables = {"PYTHONHOME": root / "usr", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, site)))}
    return [qemu, "-cpu", CORE, "-L", str(root), "-E", ",".join(f"{k}={v}" for k, v in variables.items()), str(python)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        _play(*sys.argv[2:])
    else:
        raise SystemExit(main(sys.argv[1:]))
