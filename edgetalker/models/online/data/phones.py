"""One phone inventory for every synthesizer: names of ours, and how theirs map to it.

A phone here is what the mouth does, not a phoneme of one language: the many symbols of IPA, CMU/radio,
Festival's Czech, Finnish, Catalan, Russian and Italian sets are folded into about forty classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "BILABIALS",
    "LABIODENTALS",
    "PHONES",
    "PHONE_INDEX",
    "SIBILANTS",
    "VOWELS",
    "Segment",
    "fold",
    "fold_ipa",
    "fold_sampa",
]

VOWELS = frozenset(["aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "ix", "uh", "uw", "ue", "oe", "ax"])
BILABIALS = frozenset(["p", "b", "m"])
LABIODENTALS = frozenset(["f", "v"])
SIBILANTS = frozenset(["s", "z", "sh", "zh"])
PHONES: tuple[str, ...] = (
    "sil",
    *[
        "p",
        "b",
        "m",
        "f",
        "v",
        "th",
        "dh",
        "t",
        "d",
        "s",
        "z",
        "sh",
        "zh",
        "k",
        "g",
        "x",
        "n",
        "ng",
        "ny",
        "l",
        "r",
        "w",
        "y",
        "h",
        "q",
    ],
    *["aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "ix", "uh", "uw", "ue", "oe", "ax"],
)
PHONE_INDEX = {name: index for index, name in enumerate(PHONES)}


@dataclass(frozen=True)
class Segment:
    """One phone of the inventory in [start, end), seconds from the sound's start."""

    phone: str
    start: float
    end: float


# Names of the CMU/radio set and of the Festival voices; diphthongs and affricates give two phones.
_NAMES: dict[str, str] = {
    **dict.fromkeys(("pau", "#", "##", "h#", "_", "ssil", "brth", "sil", ""), "sil"),
    "ey": "eh iy", "ay": "aa iy", "aw": "aa uw", "ow": "ao uw", "oy": "ao iy", "axr": "er", "el": "ax l",
    "em": "m", "en": "n", "hh": "h", "hv": "h", "dx": "d", "nx": "n", "ch": "t sh", "jh": "d zh", "a": "aa",
    "e": "eh", "i": "iy", "o": "ao", "u": "uw", "c": "t s", "ts": "t s", "dz": "d z", "j": "y", "vv": "v",
    "gg": "g", "tt": "t", "kk": "k", "dd": "d", "ll": "l", "nn": "n", "rr": "r", "ss": "s", "zz": "z", "bb": "b",
    "mm": "m", "pp": "p", "ff": "f", "hx": "x", "lx": "l", "ii": "iy", "ee": "eh", "oo": "ao", "uu": "uw",
    "ur": "uh", "ae": "ae", "yy": "ix", "tS": "t sh", "dZ": "d zh", "S": "sh", "Z": "zh", "J": "ny", "L": "l y",
    "N": "ng", "D": "dh", "T": "th", "B": "v", "G": "g", "O": "ao", "E": "eh", "R": "r", "@": "ax", "Q": "q",
    "Y": "ue", "A": "ae", "ch~": "sh", "rh": "r", "f": "f", "I": "iy", "sch": "sh", "ssh": "sh",
    "tch": "t sh", "uw": "uw", "d~": "d y", "t~": "t y", "n~": "ny", "r~": "r sh", "z~": "zh", "s~": "sh",
    "c~": "t sh", "j~": "ny", "dz~": "d zh", "ng": "ng", "nf": "n", "?": "q", "ei": "eh iy",
}  # fmt: skip
# The Indian voices write stops by place and breath: dental th, retroflex T, breathed bh; none of these is a fricative.
_INDIAN = {
    "th": "t", "tth": "t", "T": "t", "td": "t", "dh": "d", "ddh": "d", "D": "d", "N": "n", "L": "l", "R": "r",
    "bh": "b", "kh": "k", "gh": "g", "j": "d zh", "ksh": "k sh", "sri": "s r iy", "ee": "eh", "oh": "ao", "@": "ax",
    "x": "sil",
}  # fmt: skip
# Finnish and Czech write the front vowels with letters of their own.
_OF_VOICE: dict[str, dict[str, str]] = {
    "fi": {"y": "ue", "{": "ae", "ae": "ae", "2": "oe", "oe": "oe", "d": "d", "j": "y"},
    "cs": {"y": "iy", "ch": "x", "h": "h"},
    "ru": {"y": "ix", "j": "y", "ch": "t sh", "c": "t s", "ay": "aa", "ae": "eh", "h": "x", "sch": "sh"},
    "ja": {
        "u": "ix",
        "U": "ix",
        "A": "aa",
        "I": "iy",
        "E": "eh",
        "O": "ao",
        "f": "h",
        "j": "d zh",
        "ch": "t sh",
        "ky": "k y",
        "gy": "g y",
        "ny": "ny",
        "hy": "x",
        "by": "b y",
        "py": "p y",
        "my": "m y",
        "ry": "r y",
        "ty": "t y",
        "dy": "d y",
    },
    **dict.fromkeys(("hi", "te", "mr"), _INDIAN),
}
# Letters of IPA; combining marks, length and stress are dropped.
_IPA: dict[str, str] = {
    **{letter: letter for letter in "pbfvtdszkgmnlwhxr"},
    "ɡ": "g", "ɸ": "f", "β": "v", "ʋ": "v", "ⱱ": "v", "ɱ": "m", "θ": "th", "ð": "dh", "ʃ": "sh", "ʒ": "zh", "ʂ": "sh",
    "ʐ": "zh", "ɕ": "sh", "ʑ": "zh", "ç": "x", "j": "y", "ʝ": "y", "ɣ": "g", "χ": "x", "ʁ": "x", "ħ": "h", "ɦ": "h",
    "ʔ": "q", "c": "k", "ɟ": "g", "q": "k", "ʈ": "t", "ɖ": "d", "ɳ": "n", "ɲ": "ny", "ŋ": "ng", "ɴ": "ng", "ɫ": "l",
    "ʎ": "l", "ɬ": "l", "ɭ": "l", "ɹ": "r", "ɾ": "r", "ʀ": "x", "ɻ": "r", "ɽ": "r", "ʍ": "w", "ɥ": "w", "ɰ": "w",
    "a": "aa", "ɑ": "aa", "ɐ": "ah", "ɒ": "ao", "æ": "ae", "ʌ": "ah", "ɔ": "ao", "o": "ao", "e": "eh", "ɛ": "eh",
    "ɜ": "er", "ɝ": "er", "ɚ": "er", "ə": "ax", "ɘ": "ax", "ɵ": "oe", "ɤ": "ah", "i": "iy", "ɪ": "ih", "ɨ": "ix",
    "ᵻ": "ix", "ɯ": "ix", "u": "uw", "ʊ": "uh", "ʉ": "uw", "y": "ue", "ʏ": "ue", "ø": "oe", "œ": "oe", "ɶ": "oe",
}  # fmt: skip


def fold(name: str, language: str = "en") -> list[str]:
    """Return the phones of ours that a synthesizer's phone name stands for; unknown names raise KeyError."""
    special = _OF_VOICE.get(language, {})
    for key in (name, name.rstrip("1234:~_*"), name.lower().rstrip("1234:~_*")):
        if key in special:
            return special[key].split()
        if key in PHONE_INDEX:
            return [key]
        if key in _NAMES:
            return _NAMES[key].split()
    raise KeyError(name)


def fold_ipa(symbol: str) -> list[str]:
    """Return the phones of one IPA string, letter by letter; letters without an entry are left out."""
    return [_IPA[letter] for letter in symbol if letter in _IPA]


# SAMPA's letters beside those that are IPA's, too.
_SAMPA: dict[str, str] = {
    "@": "ə", "A": "ɑ", "{": "æ", "O": "ɔ", "E": "ɛ", "I": "ɪ", "U": "ʊ", "V": "ʌ", "Q": "ɒ", "3": "ɜ", "6": "ɐ",
    "2": "ø", "9": "œ", "Y": "ʏ", "}": "ʉ", "8": "ɵ", "4": "ɾ", "5": "ɫ", "S": "ʃ", "Z": "ʒ", "T": "θ", "D": "ð",
    "N": "ŋ", "J": "ɲ", "L": "ʎ", "R": "ʁ", "H": "ɥ", "B": "β", "G": "ɣ", "X": "χ", "C": "ç", "?": "ʔ",
}  # fmt: skip
# What speakers' own lists of sounds call differently, by the letters of their names. Brazilian `am` is a nasal vowel,
# over which no lips shut.
_OF_SPEAKERS: dict[str, dict[str, str]] = {
    "br": {
        **{f"{vowel}{n}": phone for vowel, phone in zip("aeiou", "aa eh iy ao uw".split(), strict=True) for n in "mn"},
        "nh": "ny", "lh": "l", "x": "sh", "rr": "x", "j": "zh", "y": "y", "oo": "ao", "ee": "eh",
    },
    "pl": {"s'": "sh", "z'": "zh", "ts'": "t sh", "dz'": "d zh", "n'": "ny", "I": "ix"},
    "sw": {"rs": "sh"},
}  # fmt: skip
# Length, stress, breath and place, and digits that only tell variants of a letter apart.
_MARKS = re.compile(r"(?<=[A-Za-z{}@&])[0-9]+|_h|(?<=[ptkbdg])h|[:~'#.^/\\*=-]")


def fold_sampa(symbol: str, speaker: str = "") -> list[str]:
    """Return the phones of one sound in SAMPA, as an MBROLA speaker (`br1`) uses it; unknown sounds raise KeyError."""
    if symbol == "_":
        return ["sil"]
    if (special := _OF_SPEAKERS.get(speaker[:2], {}).get(symbol)) is not None:
        return special.split()
    return [_IPA[_SAMPA.get(letter, letter)] for letter in _MARKS.sub("", symbol)]
