"""The colours that a page's address and `--background` take."""

from __future__ import annotations

import re
from typing import Any

from edgetalker.engines.errors import nearest

__all__ = ["NAMES", "colour"]

NAMES = frozenset(
    """
    aliceblue antiquewhite aqua aquamarine azure beige bisque black blanchedalmond blue blueviolet brown burlywood
    cadetblue chartreuse chocolate coral cornflowerblue cornsilk crimson cyan darkblue darkcyan darkgoldenrod
    darkgray darkgreen darkgrey darkkhaki darkmagenta darkolivegreen darkorange darkorchid darkred darksalmon
    darkseagreen darkslateblue darkslategray darkslategrey darkturquoise darkviolet deeppink deepskyblue dimgray
    dimgrey dodgerblue firebrick floralwhite forestgreen fuchsia gainsboro ghostwhite gold goldenrod gray green
    greenyellow grey honeydew hotpink indianred indigo ivory khaki lavender lavenderblush lawngreen lemonchiffon
    lightblue lightcoral lightcyan lightgoldenrodyellow lightgray lightgreen lightgrey lightpink lightsalmon
    lightseagreen lightskyblue lightslategray lightslategrey lightsteelblue lightyellow lime limegreen linen magenta
    maroon mediumaquamarine mediumblue mediumorchid mediumpurple mediumseagreen mediumslateblue mediumspringgreen
    mediumturquoise mediumvioletred midnightblue mintcream mistyrose moccasin navajowhite navy oldlace olive
    olivedrab orange orangered orchid palegoldenrod palegreen paleturquoise palevioletred papayawhip peachpuff peru
    pink plum powderblue purple rebeccapurple red rosybrown royalblue saddlebrown salmon sandybrown seagreen
    seashell sienna silver skyblue slateblue slategray slategrey snow springgreen steelblue tan teal thistle tomato
    turquoise violet wheat white whitesmoke yellow yellowgreen
    """.split()
)
"""The named colours of CSS (CSS Color Module Level 4, 6.1)."""


def colour(value: Any) -> str:
    """Read a colour: `transparent`, a name, or hexadecimal digits with or without a `#`, which is left out; "": none.

    Raises ValueError: a browser passes over a colour that it does not know, and the page would only look wrong.
    """
    text = str(value)
    if re.fullmatch("#?(?:[0-9a-fA-F]{3}){1,2}", text):
        return text.removeprefix("#")
    known = {"transparent", *NAMES}
    if text and text.lower() not in known:
        raise ValueError(f"wants transparent, a colour's name in CSS, or digits such as 202830{nearest(text, known)}")
    return text
