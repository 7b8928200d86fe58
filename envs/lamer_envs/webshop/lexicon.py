"""The words that the generated WebShop catalogue is made of: kinds of product, their qualities, options and sentences.

What must stay true: the values of one quality exclude each other under the score's own matching (no value is found in
a product that has another one), and so do the values of one option. That is what makes a near-miss a miss; the tests
check it over whole catalogues. All wording is ours.
"""

from __future__ import annotations

from typing import NamedTuple

LEVEL = "\u203a"
"""Separates the categories of a path, with blanks around it."""


class Quality(NamedTuple):
    """One axis along which products of a kind differ: a product has exactly one of the values, told by `sentence`."""

    sentence: str
    values: tuple[str, ...]


class Choice(NamedTuple):
    """One option of a product page: shown `name`, possible values in order, and whether later values cost more."""

    name: str
    values: tuple[str, ...]
    priced: bool = False


class Kind(NamedTuple):
    """One kind of product. `nouns` are the nouns of `phrase`; `price` is the range of base prices in dollars."""

    phrase: str
    nouns: tuple[str, ...]
    department: str
    path: str
    price: tuple[int, int]
    qualities: tuple[str, ...]
    choices: tuple[str, ...]

    @property
    def thing(self) -> str:
        """The phrase with its article; plurals have none."""
        if self.phrase.endswith("s"):
            return self.phrase
        return f"{'an' if self.phrase[0] in 'aeiou' else 'a'} {self.phrase}"


QUALITIES: dict[str, Quality] = {
    "fabric": Quality(
        "Made of {} throughout.",
        ("organic cotton", "merino wool", "recycled polyester", "bamboo viscose", "washed flax"),
    ),
    "fit": Quality("The cut is {}.", ("slim cut", "relaxed shape", "oversized drape", "tailored line")),
    "wash": Quality("For care: {}.", ("machine washable", "hand wash only", "dry clean advised")),
    "season": Quality("Chosen for {} days.", ("midsummer", "mild autumn", "freezing winter", "rainy spring")),
    "neck": Quality("Finished with a {}.", ("crew neckline", "deep vee front", "rolled turtle collar", "hooded top")),
    "clasp": Quality("Closes with a {}.", ("zip fastening", "button placket", "drawstring tie", "hook tape closure")),
    "sole": Quality("Underfoot you get a {}.", ("non slip tread", "cushioned footbed", "featherlight base")),
    "upper": Quality("The outside is {}.", ("full grain leather", "knitted mesh", "waxed canvas", "vegan microfiber")),
    "width": Quality("Built on a {}.", ("wide last", "narrow last shape", "standard foot form")),
    "weather": Quality("In bad weather it is {}.", ("fully waterproof", "splash tolerant", "quick drying")),
    "support": Quality("Inside there is {}.", ("arch support", "ankle padding", "heel stabilizer")),
    "power": Quality("Runs on {}.", ("usb charging", "aaa batteries", "solar energy", "mains electricity")),
    "link": Quality("Connects by {}.", ("bluetooth pairing", "corded jack", "wifi network", "radio dongle")),
    "noise": Quality("On sound: {}.", ("noise cancelling", "whisper quiet motor", "deep bass tuning")),
    "shell": Quality("The housing is {}.", ("brushed aluminum", "tough plastic", "rubber coated", "walnut wood")),
    "control": Quality("You steer it by {}.", ("touch panel", "rotary knob", "voice command", "phone app")),
    "safety": Quality("For safety it has {}.", ("automatic shutoff", "child lock", "overheat guard")),
    "mount": Quality("Set up by {}.", ("wall mounting", "clamp fixing", "standing legs", "magnet hold")),
    "metal": Quality("The body is {}.", ("stainless steel", "cast iron", "hard anodized", "hammered copper")),
    "coating": Quality("Inside it has a {}.", ("ceramic lining", "nonstick layer", "uncoated surface")),
    "heat": Quality("On the stove: {}.", ("induction ready", "oven proof", "gas flame only")),
    "clean": Quality("Afterwards it is {}.", ("dishwasher safe", "rinse by hand", "wipe clean")),
    "grip": Quality("The handle is a {}.", ("silicone handle", "beech handle grip", "riveted steel bar")),
    "diet": Quality("Suits your diet: {}.", ("gluten free", "dairy free", "nut free", "keto friendly")),
    "sweet": Quality("About sweetness: {}.", ("no added sugar", "honey sweetened", "stevia based")),
    "farming": Quality("From the field: {}.", ("certified organic", "fair trade", "locally grown", "non gmo")),
    "box": Quality("Arrives in a {}.", ("resealable pouch", "glass jar", "tin canister", "compostable carton")),
    "roast": Quality("In the cup it is {}.", ("dark roasted", "light bodied", "decaffeinated", "medium toasted")),
    "skin": Quality("Made for {}.", ("sensitive skin", "oily complexion", "dry patches", "mature faces")),
    "ethics": Quality("Made the kind way: {}.", ("cruelty free", "plant based formula", "refillable bottle")),
    "perfume": Quality("To the nose it is {}.", ("fragrance free", "lightly minty", "floral smelling")),
    "active": Quality("The active part is {}.", ("hyaluronic acid", "tea tree", "vitamin c", "shea butter")),
    "hair": Quality("Meant for {}.", ("curly hair", "color treated strands", "fine limp locks", "itchy scalp")),
    "lasting": Quality("Once applied it is {}.", ("long lasting", "easy to remove", "buildable coverage")),
    "frame": Quality("The frame is {}.", ("solid oak", "powder coated metal", "woven rattan", "bent plywood")),
    "filling": Quality("The padding is {}.", ("memory foam", "goose down", "latex core", "polyfill stuffing")),
    "assembly": Quality("When it arrives: {}.", ("easy assembly", "ready assembled", "folds flat")),
    "room": Quality("It is at home in a {}.", ("living room", "home office", "dining nook", "children nursery")),
    "soil": Quality("Likes its ground {}.", ("drought tolerant", "shade loving", "sun seeking")),
    "outdoor": Quality("Left outside it stays {}.", ("rust proof", "fade resistant", "frost hardy")),
    "pet size": Quality("Made for {}.", ("small breeds", "large dogs", "senior cats", "growing puppies")),
    "chew": Quality("In use it proves {}.", ("chew resistant", "soft plush", "squeaker filled")),
    "age": Quality("Right for {}.", ("toddlers", "school age kids", "teenagers", "grown ups")),
    "play": Quality("It helps with {}.", ("fine motor skills", "early counting", "team spirit", "story telling")),
    "paper": Quality("The sheets are {}.", ("acid free", "dotted grid", "college ruled", "plain blank")),
    "ink": Quality("The ink is {}.", ("smudge proof", "water soluble", "fast fading", "glow bright")),
    "storage": Quality("It keeps order with {}.", ("stackable trays", "hidden drawer", "hanging hooks")),
    "screen": Quality("The display is {}.", ("scratch resistant glass", "anti glare", "high resolution")),
    "tent": Quality("Goes up as a {}.", ("pop up design", "freestanding dome", "tunnel layout")),
    "carry": Quality("You carry it by {}.", ("padded shoulder strap", "waist belt", "telescopic trolley")),
}  # fmt: skip

CHOICES: dict[str, Choice] = {
    "color": Choice(
        "color",
        ("black", "white", "navy", "bright red", "olive", "slate grey", "teal", "burgundy", "beige", "dusty pink",
         "deep purple", "mustard", "burnt orange", "brown", "sky blue", "forest green"),
    ),
    "wear": Choice("size", ("s", "m", "l", "xl", "xxl")),
    "shoe": Choice("size", ("5", "6", "7", "8", "9", "10", "11", "12")),
    "bed": Choice("size", ("twin", "full", "queen", "king"), True),
    "volume": Choice("size", ("4 oz", "8 oz", "16 oz", "32 oz"), True),
    "pan": Choice("size", ("8 in", "10 in", "12 in", "14 in"), True),
    "pack": Choice("count", ("single", "2 pack", "4 pack", "6 pack"), True),
    "cable": Choice("length", ("3 ft", "6 ft", "10 ft", "15 ft"), True),
    "memory": Choice("capacity", ("32 gb", "64 gb", "128 gb", "256 gb"), True),
    "scent": Choice("scent", ("lavender", "citrus", "cedar", "vanilla", "eucalyptus", "unscented")),
    "flavor": Choice("flavor", ("salted", "honey", "smoky paprika", "chili", "cinnamon", "original")),
    "shade": Choice("shade", ("porcelain", "almond", "amber", "cocoa", "ruby", "honeycomb")),
    "finish": Choice("finish", ("matte", "gloss", "satin", "brushed")),
    "hand": Choice("style", ("left handed", "right handed", "ambidextrous")),
}  # fmt: skip


def _kind(phrase: str, nouns: str, place: str, low: int, high: int, qualities: str, choices: str) -> Kind:
    """A row of the table below: `nouns` separated by spaces, the others by commas, `place` a key of PLACES."""
    department, path = PLACES[place]
    return Kind(
        phrase, tuple(nouns.split()), department, f"{path} > {phrase.title()}".replace(">", LEVEL), (low, high),
        tuple(part.strip() for part in qualities.split(",")), tuple(part.strip() for part in choices.split(",")),
    )  # fmt: skip


PLACES: dict[str, tuple[str, str]] = {
    "clothing": ("fashion", "Clothing & Shoes > Clothing"),
    "shoes": ("fashion", "Clothing & Shoes > Shoes"),
    "bags": ("fashion", "Clothing & Shoes > Luggage"),
    "audio": ("electronics", "Electronics > Audio"),
    "computers": ("electronics", "Electronics > Computers & Accessories"),
    "cooking": ("kitchen", "Home & Kitchen > Cookware"),
    "tableware": ("kitchen", "Home & Kitchen > Tableware"),
    "furniture": ("home", "Home & Kitchen > Furniture"),
    "bedding": ("home", "Home & Kitchen > Bedding"),
    "food": ("grocery", "Grocery & Gourmet Food > Pantry"),
    "drinks": ("grocery", "Grocery & Gourmet Food > Beverages"),
    "skin care": ("beauty", "Beauty & Personal Care > Skin Care"),
    "hair care": ("beauty", "Beauty & Personal Care > Hair Care"),
    "makeup": ("beauty", "Beauty & Personal Care > Makeup"),
    "garden": ("garden", "Patio & Garden > Gardening"),
    "pets": ("pets", "Pet Supplies > Dogs & Cats"),
    "toys": ("toys", "Toys & Games > Learning"),
    "office": ("office", "Office Products > Desk Supplies"),
    "camping": ("outdoor", "Sports & Outdoors > Camping"),
}

KINDS: tuple[Kind, ...] = (
    _kind("pullover sweater", "pullover sweater", "clothing", 24, 90, "fabric, fit, wash, neck, season", "color, wear"),
    _kind("rain jacket", "rain jacket", "clothing", 35, 160, "weather, fit, clasp, wash, season", "color, wear"),
    _kind("cargo trousers", "cargo trousers", "clothing", 22, 80, "fabric, fit, wash, clasp, weather", "color, wear"),
    _kind("pajama set", "pajama set", "clothing", 18, 60, "fabric, fit, wash, clasp, season", "color, wear"),
    _kind("polo shirt", "polo shirt", "clothing", 15, 55, "fabric, fit, wash, season", "color, wear"),
    _kind("wrap cardigan", "wrap cardigan", "clothing", 20, 85, "fabric, fit, clasp, wash, season", "color, wear"),
    _kind("yoga leggings", "yoga leggings", "clothing", 14, 65, "fabric, wash, weather, season", "color, wear"),
    _kind("trail shoes", "trail shoes", "shoes", 45, 150, "sole, upper, width, weather, support", "color, shoe"),
    _kind("office loafers", "office loafers", "shoes", 40, 140, "upper, sole, width, support", "color, shoe"),
    _kind("hiking boots", "boots", "shoes", 60, 190, "upper, sole, weather, support, width", "color, shoe"),
    _kind("garden clogs", "garden clogs", "shoes", 15, 45, "sole, width, weather, support", "color, shoe"),
    _kind("weekender duffel bag", "weekender duffel bag", "bags", 30, 130, "upper, weather, clasp, carry", "color"),
    _kind("laptop backpack", "laptop backpack", "bags", 28, 120, "upper, weather, clasp, storage", "color"),
    _kind("studio headphones", "studio headphones", "audio", 30, 250, "link, noise, power, control", "color"),
    _kind("shower speaker", "shower speaker", "audio", 18, 90, "link, power, mount, noise, weather", "color, pack"),
    _kind("record player", "record player", "audio", 70, 320, "link, shell, control, power", "finish, hand"),
    _kind("desk microphone", "desk microphone", "audio", 25, 160, "link, mount, shell, control", "color"),
    _kind("tablet computer", "tablet computer", "computers", 90, 420, "screen, shell, link, age", "color, memory"),
    _kind("monitor arm", "monitor arm", "computers", 28, 140, "mount, shell, assembly, control", "color, finish"),
    _kind("charging cable", "cable", "computers", 7, 28, "shell, safety, outdoor, storage", "color, cable"),
    _kind("ergonomic mouse", "mouse", "computers", 15, 90, "link, power, shell, control", "color, hand"),
    _kind("flash drive", "drive", "computers", 8, 48, "shell, safety, weather, outdoor", "color, memory"),
    _kind("frying pan", "pan", "cooking", 18, 110, "metal, coating, heat, clean, grip", "pan, finish"),
    _kind("stock pot", "stock pot", "cooking", 28, 140, "metal, coating, heat, clean", "pan, color"),
    _kind("chef knife", "chef knife", "cooking", 20, 150, "metal, grip, clean, safety", "pan, hand"),
    _kind("electric kettle", "kettle", "cooking", 22, 95, "metal, safety, control, noise", "color, finish"),
    _kind("coffee mug", "coffee mug", "tableware", 8, 35, "shell, clean, box, ethics", "color, pack"),
    _kind("lunch box", "lunch box", "tableware", 12, 45, "metal, clean, age, weather", "color, pack"),
    _kind("water bottle", "water bottle", "tableware", 10, 45, "metal, coating, clean, weather", "color, volume"),
    _kind("bar stool", "bar stool", "furniture", 45, 220, "frame, filling, assembly, room", "color, finish"),
    _kind("bookshelf", "bookshelf", "furniture", 50, 260, "frame, assembly, room, mount, storage", "color, finish"),
    _kind("coffee table", "coffee table", "furniture", 60, 320, "frame, assembly, room, storage", "color, finish"),
    _kind("accent armchair", "accent armchair", "furniture", 90, 420, "frame, filling, assembly, room", "color"),
    _kind("mattress topper", "mattress topper", "bedding", 45, 240, "filling, wash, season, skin", "bed"),
    _kind("duvet cover", "duvet cover", "bedding", 25, 120, "fabric, wash, clasp, season", "color, bed"),
    _kind("bed pillow", "bed pillow", "bedding", 14, 80, "filling, fabric, wash, ethics", "bed, pack"),
    _kind("trail mix", "trail mix", "food", 7, 34, "diet, sweet, farming, box", "flavor, pack"),
    _kind("granola clusters", "granola clusters", "food", 6, 30, "diet, sweet, farming, box", "flavor, pack"),
    _kind("popcorn kernels", "popcorn kernels", "food", 5, 26, "diet, farming, box, ethics", "flavor, volume"),
    _kind("almond spread", "almond spread", "food", 8, 32, "sweet, farming, box, roast", "flavor, volume"),
    _kind("rice crackers", "rice crackers", "food", 5, 24, "diet, sweet, farming, box", "flavor, pack"),
    _kind("coffee beans", "coffee beans", "drinks", 10, 48, "roast, farming, box, ethics", "volume, pack"),
    _kind("herbal infusion", "infusion", "drinks", 6, 28, "farming, box, sweet, diet", "scent, pack"),
    _kind("cocoa powder", "cocoa powder", "drinks", 7, 30, "sweet, diet, farming, box", "flavor, volume"),
    _kind("face cream", "face cream", "skin care", 12, 75, "skin, ethics, perfume, active", "volume, pack"),
    _kind("body lotion", "body lotion", "skin care", 8, 45, "skin, ethics, active, box", "scent, volume"),
    _kind("lip balm", "lip balm", "skin care", 4, 22, "ethics, perfume, active, lasting", "flavor, pack"),
    _kind("shampoo bar", "shampoo bar", "hair care", 6, 28, "hair, ethics, active, box", "scent, pack"),
    _kind("hair mask", "mask", "hair care", 9, 46, "hair, ethics, perfume, active", "volume, pack"),
    _kind("styling clay", "clay", "hair care", 8, 36, "ethics, perfume, lasting, hair", "finish, volume"),
    _kind("liquid foundation", "foundation", "makeup", 10, 58, "skin, ethics, lasting, perfume", "shade, volume"),
    _kind("makeup palette", "makeup palette", "makeup", 12, 64, "ethics, lasting, skin, perfume", "shade, finish"),
    _kind("raised planter", "planter", "garden", 30, 160, "frame, outdoor, assembly, storage", "color, pack"),
    _kind("pruning shears", "shears", "garden", 14, 70, "metal, grip, outdoor, safety", "hand, finish"),
    _kind("flower seeds", "flower seeds", "garden", 4, 22, "soil, farming, box, season", "color, pack"),
    _kind("lawn sprinkler", "lawn sprinkler", "garden", 15, 62, "metal, outdoor, grip, age", "color, finish"),
    _kind("dog bed", "dog bed", "pets", 24, 130, "pet size, filling, wash, fabric", "color, wear"),
    _kind("cat scratching post", "cat post", "pets", 20, 110, "pet size, frame, assembly, mount", "color, finish"),
    _kind("tug toy", "tug toy", "pets", 6, 26, "pet size, chew, wash, ethics", "color, pack"),
    _kind("building blocks", "blocks", "toys", 14, 80, "age, play, shell, clean", "color, pack"),
    _kind("board game", "board game", "toys", 15, 60, "age, play, box, ethics", "color, pack"),
    _kind("paper notebook", "notebook", "office", 6, 28, "paper, upper, age, ethics", "color, pack"),
    _kind("gel pens", "gel pens", "office", 5, 26, "ink, grip, age, ethics", "color, pack"),
    _kind("desk organizer", "desk organizer", "office", 12, 58, "frame, storage, mount, assembly", "color, finish"),
    _kind("camping lantern", "camping lantern", "camping", 15, 70, "power, mount, weather, safety", "color, pack"),
    _kind("family tent", "family tent", "camping", 90, 380, "tent, weather, season, carry", "color"),
    _kind("sleeping bag", "bag", "camping", 30, 170, "filling, season, wash, clasp", "color, wear"),
)  # fmt: skip

_NOUNS = (
    "cotton wool polyester bamboo viscose flax leather mesh canvas microfiber neckline collar placket tape "
    "closure tread footbed base last form arch support ankle padding heel stabilizer batteries energy electricity "
    "jack network radio dongle motor bass aluminum plastic rubber walnut wood panel knob voice command phone app "
    "shutoff child lock overheat guard wall clamp legs steel iron copper lining layer surface oven flame handle "
    "grip bar gluten dairy nut sugar honey stevia trade pouch jar tin canister carton skin complexion patches "
    "faces cruelty plant formula bottle fragrance acid tea tree vitamin shea butter hair strands locks scalp "
    "coverage oak metal rattan plywood foam goose core polyfill stuffing assembly room office nook nursery "
    "drought shade sun rust frost breeds dogs cats puppies plush squeaker toddlers school age kids teenagers "
    "motor skills counting team spirit story grid ink water trays drawer hooks glass glare resolution design dome "
    "tunnel layout shoulder strap waist belt trolley midsummer autumn winter spring vee front top zip button "
    "drawstring tie hook foot shape line drape dishwasher hand usb wifi"
)
QUALITY_NOUNS = frozenset(_NOUNS.split())
"""The nouns among the words of quality values, so that titles carry their nouns without a tagger."""

BRAND_STARTS = (
    "Alder", "Brindle", "Calder", "Dorrin", "Elmsa", "Farrow", "Galen", "Hollis", "Ister", "Junip", "Kelda", "Lorrim",
    "Marlo", "Nordel", "Oster", "Pellan", "Quillon", "Ravel", "Selwyn", "Tarrow", "Ulmer", "Verrin", "Wexley", "Yarrow",
)  # fmt: skip
BRAND_ENDS = ("", "by", "co", "dale", "ette", "field", "ix", "mark", "on", "vale", "wick", "worth")
MODELS = (
    "Aster", "Beacon", "Cinder", "Drift", "Ember", "Fathom", "Glade", "Harbor", "Inlet", "Jasper", "Kestrel", "Lumen",
    "Meridian", "Nimbus", "Orchard", "Prairie", "Quarry", "Ridge", "Summit", "Thicket", "Upland", "Vesper", "Willow",
    "Zephyr",
)  # fmt: skip

BULLETS = (
    "Checked piece by piece before it leaves our workshop.",
    "Comes with a thirty day return promise from {brand}.",
    "Designed by a small crew that answers every letter.",
    "Shipped in plain wrapping without needless filler.",
    "A favourite gift in the {department} department.",
)
OPENINGS = (
    "The {model} is {brand}'s answer for anyone who wants {thing} without any fuss.",
    "{brand} has been in this trade for years, and the {model} shows it: {thing} with nothing superfluous.",
    "Meet the {model}: {thing} that {brand} worked on for three seasons.",
    "Others sell {thing} too. With the {model}, {brand} went back to the drawing board.",
)
CLOSINGS = (
    "Questions are answered within a day.",
    "Spare parts stay available.",
    "We think you will keep it for a long while.",
    "Try it and tell us what you think.",
)
REVIEWS = (
    (5, "exactly as described", "Arrived on time and does what the page says. I would order again."),
    (5, "delighted", "Bought one for my sister and then another for myself."),
    (4, "good value", "Not perfect, but for this money I have no complaint."),
    (4, "solid choice", "Took me a week to get used to it, now I use it every day."),
    (3, "it is fine", "Nothing special. The picture made it look a bit bigger."),
    (3, "mixed feelings", "I like it, though the parcel had a dent when it came."),
    (2, "expected more", "It works, but the first one was faulty and I had to send it back."),
    (1, "not for me", "Wrong pick on my side, returned it without trouble."),
)

WANTS = (
    "i need {thing}, {qualities}{options}",
    "i am looking for {thing} which is described as {qualities}{options}",
    "find me {thing} with {qualities}{options}",
    "can you get me {thing}? important to me: {qualities}{options}",
    "i want to buy {thing} for a friend who insists on {qualities}{options}",
    "please order {thing} ({qualities}){options}",
    "my old {phrase} broke, so i want {thing} again: {qualities}{options}",
    "shopping for {thing} today, it has to say {qualities}{options}",
)
PRICES = (
    ", and the price must not be above {:.2f} dollars",
    ", for {:.2f} dollars or less",
    ", my budget ends at {:.2f} dollars",
    ", costing no more than {:.2f} dollars",
)
