"""Who speaks in which part of the data, and who is kept out of training."""

from __future__ import annotations

import random

from edgetalker.models.online.data.neural import STYLES
from edgetalker.models.online.data.utterance import Voice

__all__ = ["HELD_OUT", "NOBODY", "mixed_voice", "training_voice"]

NOBODY = Voice("nobody", "")
"""No speaker: music, keys, breath, coughs, machines and talk from afar, and a face at rest."""

_VARIANTS = ("", *(f"+{name}" for name in (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 klatt klatt2 klatt3 klatt4 Alex Alicia Andrea Andy Annie Denis Diogo Gene "
    "Hugo Lee Marco Mario Michael Nguyen adam anika antonio belinda boris caleb croak david edward grandma gustave "
    "iven3 kaukovalta linda max norbert pablo quincy rob sandro shelby steph travis victor zac"
).split()))  # fmt: skip
_ESPEAK = (
    ("en-us", "en"), ("en-us", "en"), ("en-gb-x-rp", "en"), ("en-gb-scotland", "en"), ("de", "de"), ("fr", "fr"),
    ("es", "es"), ("pt-br", "pt"), ("pl", "pl"), ("nl", "nl"), ("tr", "tr"), ("sv", "sv"), ("hu", "hu"),
)  # fmt: skip
# Recorded speakers count for more than formant synthesis: their weight is about three quarters of the sessions.
_RECORDED: tuple[tuple[Voice, float], ...] = (
    (Voice("flite", "slt"), 5.0), (Voice("flite", "awb"), 6.0), (Voice("flite", "kal16"), 4.0),
    (Voice("festival", "kal_diphone"), 3.0), (Voice("festival", "ked_diphone"), 5.0),
    (Voice("festival", "czech_ph", "cs"), 2.0), (Voice("festival", "czech_dita", "cs"), 2.0),
    (Voice("festival", "czech_krb", "cs"), 2.0), (Voice("festival", "czech_machac", "cs"), 2.0),
    (Voice("festival", "suo_fi_lj_diphone", "fi"), 3.0), (Voice("festival", "hy_fi_mv_diphone", "fi"), 3.0),
    (Voice("festival", "upc_ca_ona_hts", "ca"), 3.0), (Voice("festival", "msu_ru_nsh_clunits", "ru"), 3.0),
    (Voice("festival", "hindi_NSK_diphone", "hi"), 3.0), (Voice("festival", "telugu_NSK_diphone", "te"), 1.5),
    (Voice("festival", "marathi_NSK_diphone", "mr"), 1.5),
    (Voice("rhvoice", "bdl"), 6.0), (Voice("rhvoice", "clb"), 5.0), (Voice("rhvoice", "alan"), 5.0),
    (Voice("pico", "en-US"), 4.0), (Voice("pico", "en-GB"), 4.0), (Voice("jtalk", "nitech", "ja"), 3.0),
    (Voice("pico", "de-DE", "de"), 2.5), (Voice("pico", "es-ES", "es"), 2.5), (Voice("pico", "fr-FR", "fr"), 2.5),
    (Voice("rhvoice", "aleksandr", "ru"), 2.0), (Voice("rhvoice", "anna", "ru"), 2.0),
    (Voice("rhvoice", "elena", "ru"), 2.0), (Voice("rhvoice", "irina", "ru"), 2.0),
    (Voice("rhvoice", "spomenka", "eo"), 2.0),
)  # fmt: skip
# MBROLA's speakers by the language of their text. Left out: whose stops come much before or after their rows, whose
# sounds espeak-ng names otherwise than their list does, whose terms forbid some uses (de4), and Italian ones, whose
# language is held out.
_DIPHONES = {
    "en": "en1 us1 us2 us3", "fr": "ca1 fr1 fr2 fr3 fr4 fr5 fr7", "de": "de1 de2 de3 de5 de6 de7",
    "es": "es1 es2 mx1 mx2 vz1", "pt": "br1 br2 br3 br4 pt1", "cs": "cr1 cz2", "fi": "ee1 la1", "hu": "hu1",
    "nl": "nl2 nl3", "pl": "pl1", "sv": "ic1 sw1 sw2",
}  # fmt: skip
_RECORDED += tuple(
    (Voice("mbrola", name, language), 2.0) for language, names in _DIPHONES.items() for name in names.split()
)
_ESPEAK_WEIGHT = 22.0
_MIXED_WEIGHT = 30.0

HELD_OUT: dict[str, tuple[Voice, ...]] = {
    "rms": (Voice("flite", "rms"),),
    "italian": (Voice("espeak", "it", "it"), Voice("espeak", "it+f2", "it")),
    "slt-hts": (Voice("festival", "cmu_us_slt_arctic_hts"),),
    "italian-diphone": (Voice("festival", "pc_diphone", "it"), Voice("festival", "lp_diphone", "it")),
    "joe": (Voice("piper", "en_US-joe-medium"),),
}
"""A voice never heard; a language never heard, from a known synthesizer; another synthesizer's rendering (HTS) of a
speaker that training knows through flite; two recorded speakers never heard, of a language never heard; a neural voice
never heard, from a synthesizer never heard."""


def training_voice(rng: random.Random) -> Voice:
    """Draw a voice for one training session."""
    pick = rng.random() * (_MIXED_WEIGHT + _ESPEAK_WEIGHT + sum(weight for _, weight in _RECORDED))
    for voice, weight in _RECORDED:
        if pick < weight:
            return voice
        pick -= weight
    if pick < _MIXED_WEIGHT:
        return mixed_voice(rng)
    name, language = rng.choice(_ESPEAK)
    return Voice("espeak", name + rng.choice(_VARIANTS), language)


def mixed_voice(rng: random.Random) -> Voice:
    """Draw a speaker of Kokoro's: a convex mix of its styles, most of it one or two of them."""
    shares = [rng.gammavariate(0.6, 1.0) for _ in STYLES]
    return Voice("kokoro", " ".join(str(round(100 * share / sum(shares))) for share in shares))
