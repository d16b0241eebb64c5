"""espeak-ng as the synthesizer of the agents in this folder (apt-get install espeak-ng)."""

import subprocess


def speak(text):
    """Return speech as 16-bit mono PCM, and its samples a second."""
    wav = subprocess.run(["espeak-ng", "--stdout", text], capture_output=True, check=True).stdout
    rate, pcm = int.from_bytes(wav[24:28], "little"), wav[44:]  # behind a header of 44 bytes
    return pcm[: len(pcm) // 2 * 2], rate
