"""Sentences to speak: English from the word lists and templates below, other languages as pseudo-words."""

from __future__ import annotations

import random

__all__ = ["LANGUAGES", "practice", "sentence"]


def _words(text: str) -> list[str]:
    return text.split()


_NOUNS = _words("""
baby people member map problem paper number moment mountain summer hammer camera pepper puppy bubble rubber
robber table cable maple apple temple sample company umbrella window machine river garden teacher finger
morning evening kitchen singer king ring song thing wing tongue father mother brother cup cap cab cat cake
lamp stamp shape ship shop sheep chip jump pump bump thumb comb room roof wolf leaf life knife voice video
value village valley fish dish judge bridge garage beach peach coffee office elephant photograph mirror error
winter thunder dinner battle bottle middle needle noodle poodle bishop picture nature future question answer
history music museum island ocean station nation motion potion passion vision treasure measure pleasure yellow
pillow shadow tomorrow meadow boy toy noise point house mouse cloud crowd eye pie sky night light rain train
plane game name farm arm palm harbor zebra quiz music wheel whale wood water wall word world girl bird nurse
purse church turtle purple people
""")
_VERBS = _words("""
make made bring brought put keep kept help jump stop drop push pull move love leave give save prove remember
imagine promise compare complete prepare improve compose publish begin become believe belong blame bomb climb
dream swim come came meet beat bake break take shake think thank sing bring ring hang find follow laugh visit
watch wash wish rush reach teach choose use lose show throw know grow blow open happen deepen admit permit
submit perform inform confirm arrive behave drive receive discover cover offer suffer prefer refer answer
wander wonder
""")
_ADJECTIVES = _words("""
big small simple purple happy sunny bumpy empty important impossible possible beautiful brave blue brown black
white green yellow warm calm numb dumb smooth rough tough soft loud proud round young strong long wrong thin
thick deep cheap sharp fresh rich huge orange strange foreign famous nervous obvious previous public private
normal formal animal minimal musical wonderful powerful careful playful
""")
_NAMES = _words("""
Bob Pam Mimi Peter Emma Tom Philip Barbara Naomi Anna Nina Ming Ken Megan Vivian Fiona Joe Zoe
""")
_SMALL = _words("""
maybe perhaps now then here there often never always probably mostly simply finally somehow
""")
_PAIRS = """map nap|mat gnat|meat neat|mine nine|moon noon|some son|sum sung|ram ran|rum run|comb cone|beam bean|
pin bin|pan ban|pat bat|pet bet|cap cab|rip rib|rim ring|swim swing|bam bang|hum hung|dim din|mice nice|moat note|
met net|might night|more nor|mock knock|fan van|pale bale|pair bear|pole bowl""".replace("\n", "").split("|")
_TEMPLATES = (
    "the {a} {n} {v} the {n}",
    "{N} and {N} {v} a {a} {n} {s}",
    "{s} we {v} every {n} in the {a} {n}",
    "why did {N} {v} my {n}?",
    "please {v} the {n}, then {v} the {a} {n}",
    "I {v} {n}s, {n}s and {a} {n}s",
    "{N} said: {v} it {s}, or {v} me a {n}!",
    "{p}, {p}, and {p}",
    "a {a} {a} {n} of {n}s",
    "no, {N}, the {n} from the {n} was {a}",
    "{s}, {N}. {n}, {n}, {n}",
    "my {n} may {v} many {a} {n}s {s}",
    "if the {n} can {v}, nothing will {v} the {n}",
    "how {a} the {n} is, when {N} has to {v}",
)

# Onsets, nuclei and codas: enough for a synthesizer's letter-to-sound rules to make speech-like sound.
LANGUAGES: dict[str, tuple[str, str, str]] = {
    "en": (
        "b d f g h k l m n p r s t v w y z bl br ch cl cr dr fl fr gl gr pl pr qu sh sk sl sm sn sp st sw th tr",
        "a e i o u ee oo ai ay ea ou ow oa aw er ar or igh",
        "- - b d f g k l m n p r s t v x ng nk mp nt st sh th ck ll m n ng p b",
    ),
    "de": ("b d f g h k l m n p r s t w z sch st sp br pf", "a e i o u ei au ie ä ö ü eu", "n m r t st ng ch - l p b"),
    "fr": ("b d f g j l m n p r s t v ch br pl tr gn", "a e i o u ou an on in eau é è eu oi", "- - - r l t m ne be pe"),
    "es": ("b d f g j l m n p r s t ch br pl tr ll ñ qu", "a e i o u ue ie ai", "- - - n s r l m"),
    "pt": ("b d f g j l m n p r s t v ch lh nh br pr", "a e i o u ão ei ou em", "- - - r s m l"),
    "pl": ("b d f g k l m n p r s t w z cz sz rz prz br", "a e i o u y ą ę", "- - n m k t w ś p b"),
    "nl": ("b d f g h k l m n p r s t v w z sch br st", "a e i o u aa ee oo ui ij eu oe", "- n m r t k p ng st"),
    "tr": ("b c ç d f g h k l m n p r s ş t v y z", "a e ı i o ö u ü", "- - n m r l k p t z"),
    "sv": ("b d f g h j k l m n p r s t v sk br st sj", "a e i o u y å ä ö", "- n m r t k p ng ll"),
    "hu": ("b d f g h k l m n p r s sz t v z cs gy ny", "a á e é i o ó ö u ü", "- - n m r l k t p b"),
    "it": ("b d f g l m n p r s t v ch sc br pr gn z", "a e i o u ia uo", "- - - - n r l m"),
    "cs": ("b d f h j k l m n p r s t v z br st pr ch", "a e i o u ou", "- - - n m k t l p b"),
    "fi": ("h j k l m n p r s t v b", "a e i o u y aa ii uu ee ai ei", "- - - n s t m"),
    "ca": ("b d f g j l m n p r s t v x br pl tr", "a e i o u ai ou", "- - n s r l m p"),
    "hi": ("क ख ग घ ज त थ द ध न प ब भ म य र ल व स श ह ट ड", "- ा ि ी ु ू े ै ो ौ", "- - - न म र ल प त क ब"),
    "mr": ("क ख ग घ ज त थ द ध न प ब भ म य र ल व स श ह ट ड", "- ा ि ी ु ू े ै ो ौ", "- - - न म र ल प त क ब"),
    "te": ("క గ చ జ త ద న ప బ భ మ య ర ల వ స శ హ ట డ", "- ా ి ీ ు ూ ె ే ొ ో", "- - - - ం"),
    "eo": ("b c ĉ d f g ĝ h j k l m n p r s ŝ t v z br pl st", "a e i o u aj oj aŭ", "- - - n s r l m j"),
    "ja": (
        "カ キ ク ケ コ サ シ ス セ ソ タ チ ツ テ ト ナ ニ ヌ ネ ノ ハ ヒ フ ヘ ホ マ ミ ム メ モ ヤ ユ ヨ "
        "ラ リ ル レ ロ ワ ガ ギ グ ゲ ゴ ザ ジ ズ ダ デ ド バ ビ ブ ベ ボ パ ピ プ ペ ポ キャ シャ チョ ニュ ミャ "
        "ピョ ビュ リョ ア イ ウ エ オ マ ミ モ パ ポ バ ボ",
        "- - - - ー", "- - - ン ッ",
    ),
    "ru": ("б в г д ж з к л м н п р с т ф х ч ш бр пр", "а е и о у ы я ю ё э", "- - н м р л к т п б"),
}  # fmt: skip


def sentence(rng: random.Random, language: str = "en") -> str:
    """Return a sentence of about three to twelve words."""
    if language == "en":
        return _english(rng)
    words = [_pseudo_word(rng, language) for _ in range(rng.randint(3, 10))]
    for index in range(2, len(words) - 2):
        if rng.random() < 0.12:
            words[index] += ","
    return " ".join(words) + rng.choice("...?!")


# Places of stops and nasals side by side, for training alone: what the lips do is heard in these differences.
_DRILLS = """
pea tea key|pie tie kite|pour tore core|pale tail kale|pan tan can|bun done gun|bay day gay|
bow dough go|cap cat back|lip lit lick|map mat mack|rope wrote rogue|rub rut rug|lab lad lag|
rib rid rig|robe road rogue|simmer sinner singer|hammer hanner hanger|rummy runny rung|
dumb done dung|bomb bond bong|clam clan clang|tam tan tang|upper utter ucker|copper cotter cocker|
rapid ratty racket|happy hatty hacky|sober soda soaker|cabin cannon camera|leaf leap least|
safe same sane|half ham hand|wife wipe wine|fine pine mine nine|fat pat mat gnat|vet bet met net|
thin fin pin tin kin|though vote boat dote goat|three free pre tree|sink think fink pink|
lather laughter lapper
""".replace("\n", "").split("|")


def practice(rng: random.Random, language: str = "en") -> str:
    """Return a sentence for training: in English every third is a drill or invented words, for sounds in any order."""
    if language != "en" or rng.random() < 0.66:
        return sentence(rng, language)
    if rng.random() < 0.5:
        words = " ".join(rng.choice(_DRILLS) for _ in range(rng.randint(2, 3))).split()
        rng.shuffle(words)
        return ", ".join(" ".join(words[at : at + 3]) for at in range(0, len(words), 3)) + "."
    return " ".join(_pseudo_word(rng, "en") for _ in range(rng.randint(3, 9))) + "."


def _english(rng: random.Random) -> str:
    text = rng.choice(_TEMPLATES)
    lists = {"n": _NOUNS, "v": _VERBS, "a": _ADJECTIVES, "N": _NAMES, "s": _SMALL, "p": _PAIRS}
    for key, words in lists.items():
        while "{" + key + "}" in text:
            text = text.replace("{" + key + "}", rng.choice(words).strip(), 1)
    return text


def _pseudo_word(rng: random.Random, language: str) -> str:
    onsets, nuclei, codas = (part.split() for part in LANGUAGES[language])
    syllables = rng.choices((1, 2, 3, 4), (2, 5, 3, 1))[0]
    word = "".join(
        rng.choice(onsets) + rng.choice(nuclei) + (rng.choice(codas) if rng.random() < 0.5 else "")
        for _ in range(syllables)
    )
    return word.replace("-", "")
