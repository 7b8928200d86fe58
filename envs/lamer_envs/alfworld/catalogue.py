"""What a generated household is made of: types of objects and receptacles, and what fits where.

What must stay true: `fits` is the one table of which object type goes in or on which receptacle type; generated
households use it whole, and a household read from PDDL that agrees with it is stored without repeating it. Changing a
row changes generated households, and with them their splits. The rooms and the kinds of things follow ALFRED's
(Shridhar et al., arXiv 1912.01734); which things there are, and how many, is our own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

KITCHEN, LIVING, BEDROOM, BATHROOM = "kitchen", "living room", "bedroom", "bathroom"
ROOMS = (KITCHEN, LIVING, BEDROOM, BATHROOM)
_LETTERS = {"k": KITCHEN, "l": LIVING, "b": BEDROOM, "w": BATHROOM}


class Thing(NamedTuple):
    """A type of object: its category (decides where it fits), its rooms, and what can be done to it.

    `flags` is a subset of "hcw": heatable, coolable, cleanable.
    """

    category: str
    rooms: frozenset[str]
    flags: str


class Place(NamedTuple):
    """A type of receptacle: how many of it each room has (least, most), whether it opens, what fits."""

    counts: dict[str, tuple[int, int]]
    openable: bool
    takes: frozenset[str]


# A row: category, properties (h, c, w or -), rooms (k l b w), then the types.
_THINGS = """
food hcw k: apple potato tomato carrot onion corn mushroom broccoli eggplant zucchini
food hc k: egg bread cheese pizza pie muffin sausage pancake waffle burrito dumpling croissant
food cw k: lettuce pear peach grape lemon cucumber
food c k: butter yogurt chocolate
drink c k: milkcarton juicecarton winebottle sodacan waterbottle
dish hcw kl: mug cup plate bowl
dish hcw k: glassbottle teacup saucer
pan cw k: pan pot
pan w k: kettle
tool w k: fork knife butterknife spoon spatula ladle whisk tongs peeler
spice - k: saltshaker peppershaker
wash w kw: dishsponge cloth
wash w w: soapbar scrubbrush toothbrush comb razor
wash - kw: soapbottle spraybottle
wash - w: shampoobottle toothpaste plunger
towel w w: handtowel towel washcloth
paper - kw: papertowelroll
paper - w: toiletpaper
paper - lbw: tissuebox
decor - lbw: candle
decor - lb: vase statue photoframe houseplant
small - klb: keychain creditcard cellphone watch
small - lb: pen pencil cd remotecontrol wallet glasses ring coin dice charger calculator scissors stapler camera
small - b: necklace
reading - lb: book newspaper magazine notebook letter map
device - lb: laptop tablet headphones alarmclock
sport - lb: basketball baseballbat tennisracket
soft - lb: pillow teddybear blanket
soft - b: hat scarf glove
box - lb: box toycar puzzle doll
garden - l: wateringcan
"""

LAMPS = ("desklamp", "floorlamp", "tablelamp", "readinglamp", "nightlamp", "pianolamp")
LAMP_PLACES = ("desk", "sidetable", "dresser", "coffeetable", "shelf", "tvstand", "bookcase")
"""Where lamps stand; a lamp cannot be taken."""

# A row: type, o if it opens (else -), least-most of it by room, then the categories and types that fit.
_PLACES = """
cabinet o k3-6 l1-2 b0-1 w1-3: food drink dish pan spice wash towel paper decor box reading
drawer o k2-4 l1-3 b2-5 w1-2: tool small spice reading wash towel headphones
fridge o k1-1: food drink dish pan
microwave o k1-1: food dish
pantry o k0-1: food drink spice papertowelroll
sinkbasin - k1-1 w1-2: food dish pan tool wash towel
countertop - k1-3 w1-2: food drink dish pan tool spice wash towel paper decor small
diningtable - k0-1 l0-1: food drink dish pan tool spice paper decor small reading device box
island - k0-1: food drink dish pan tool spice wash
stoveburner - k2-4: pan
coffeemachine - k0-1: mug cup teacup
garbagecan - k1-1 l0-1 b1-1 w1-1: food drink paper letter newspaper soapbar dishsponge pen pencil
shelf - k0-2 l1-3 b1-3 w0-2: food drink dish spice wash towel paper decor small reading device box garden
cart - k0-1 l0-1 w0-1: food drink dish spice wash towel paper decor small reading
sidetable - k0-1 l1-2 b1-2 w0-1: food dish tool decor small reading device paper box garden towel
coffeetable - l1-1: dish decor small reading device box paper garden
tvstand - l0-1: decor small reading device box
sofa - l1-2: soft small reading device box sport
armchair - l0-2 b0-1: soft small reading device box sport
ottoman - l0-1 b0-1: soft small reading box
desk - l0-1 b1-1: dish decor small reading device box sport paper
dresser - l0-1 b1-1: dish decor small reading device box sport paper soft
bookcase - l0-1 b0-1: reading decor box small device
bed - b1-2: soft reading device small sport box
wardrobe o b0-1: soft sport box
chest o l0-1 b0-1: soft sport box decor
safe o l0-1 b0-1: small
laundryhamper - b0-1 w0-1: soft towel cloth
bathtubbasin - w0-1: wash towel
toilet - w1-1: paper wash decor
towelholder - w0-2: towel
toiletpaperhanger - w0-1: toiletpaper
"""


def _rows(text: str) -> list[tuple[list[str], list[str]]]:
    pairs = [line.split(": ") for line in text.strip().split("\n")]
    return [(head.split(), tail.split()) for head, tail in pairs]


def _things() -> dict[str, Thing]:
    table: dict[str, Thing] = {}
    for (category, flags, rooms), names in _rows(_THINGS):
        thing = Thing(category, frozenset(_LETTERS[r] for r in rooms), flags.replace("-", ""))
        table.update(dict.fromkeys(names, thing))
    return table


def _places() -> dict[str, Place]:
    table: dict[str, Place] = {}
    for (name, opens, *rooms), takes in _rows(_PLACES):
        counts = {}
        for room in rooms:
            letter, least, most = re.fullmatch(r"([klbw])(\d)-(\d)", room).groups()  # type: ignore[union-attr]
            counts[_LETTERS[letter]] = (int(least), int(most))
        table[name] = Place(counts, opens == "o", frozenset(takes))
    return table


THINGS: dict[str, Thing] = _things()
PLACES: dict[str, Place] = _places()


@lru_cache(maxsize=8192)
def fits(place: str, thing: str) -> bool:
    """Whether an object type may be put in or on a receptacle type, in generated households."""
    if place not in PLACES:
        return False
    takes = PLACES[place].takes
    if thing in LAMPS:
        return place in LAMP_PLACES
    return thing in THINGS and (thing in takes or THINGS[thing].category in takes)
