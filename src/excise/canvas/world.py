"""The content of Canvas: names of objects and styles, their aliases, and prompt templates.

Data and functions of strings, without torch. Protocols and their hashes depend on the names, so they must not change.
"""

from __future__ import annotations

from excise.concepts.concept import normalise_name

OBJECTS: dict[str, str] = {
    "cat": "🐈", "dog": "🐕", "fish": "🐟", "butterfly": "🦋", "elephant": "🐘", "rooster": "🐓",
    "tree": "🌳", "sunflower": "🌻", "apple": "🍎", "pizza": "🍕", "cake": "🎂", "coffee": "☕",
    "car": "🚗", "rocket": "🚀", "sailboat": "⛵", "airplane": "✈", "bicycle": "🚲", "castle": "🏰",
    "house": "🏠", "guitar": "🎸", "balloon": "🎈", "umbrella": "☂", "crown": "👑", "mushroom": "🍄",
}  # fmt: skip
"""The 24 core objects and the glyph that draws each."""

STYLES: tuple[str, ...] = (
    "plain", "sketch", "pixel", "neon", "watercolor", "blueprint", "sepia", "dots", "woodcut", "popart",
)  # fmt: skip
"""The 10 styles; `render.py` has one filter for each."""

# 200 further names, in the plain style only: those at even positions form list A (to erase), the others list B.
NAMES: dict[str, str] = {
    "ox": "🐂", "tiger": "🐅", "rabbit": "🐇", "dragon": "🐉", "snake": "🐍", "horse": "🐎", "goat": "🐐",
    "sheep": "🐑", "monkey": "🐒", "pig": "🐖", "snail": "🐌", "octopus": "🐙", "sea shell": "🐚", "ant": "🐜",
    "honey bee": "🐝", "ladybug": "🐞", "turtle": "🐢", "penguin": "🐧", "koala": "🐨", "camel": "🐪", "dolphin": "🐬",
    "whale": "🐋", "frog": "🐸", "panda": "🐼", "wolf": "🐺", "fox": "🦊", "lion": "🦁", "unicorn": "🦄", "eagle": "🦅",
    "duck": "🦆", "bat": "🦇", "shark": "🦈", "owl": "🦉", "lizard": "🦎", "rhinoceros": "🦏", "squid": "🦑",
    "giraffe": "🦒", "zebra": "🦓", "hedgehog": "🦔", "dinosaur": "🦖", "kangaroo": "🦘", "llama": "🦙",
    "peacock": "🦚", "parrot": "🦜", "raccoon": "🦝", "lobster": "🦞", "swan": "🦢", "crab": "🦀", "scorpion": "🦂",
    "turkey": "🦃", "gorilla": "🦍", "deer": "🦌", "crocodile": "🐊", "flamingo": "🦩", "sloth": "🦥", "otter": "🦦",
    "grapes": "🍇", "melon": "🍈", "watermelon": "🍉", "lemon": "🍋", "banana": "🍌", "pineapple": "🍍", "peach": "🍑",
    "cherries": "🍒", "strawberry": "🍓", "hamburger": "🍔", "tomato": "🍅", "eggplant": "🍆", "ear of corn": "🌽",
    "hot pepper": "🌶", "pear": "🍐", "hot dog": "🌭", "taco": "🌮", "cheese": "🧀", "bread": "🍞", "croissant": "🥐",
    "avocado": "🥑", "cucumber": "🥒", "carrot": "🥕", "green salad": "🥗", "pancakes": "🥞", "kiwi fruit": "🥝",
    "egg": "🍳", "pretzel": "🥨", "sandwich": "🥪", "coconut": "🥥", "broccoli": "🥦", "popcorn": "🍿",
    "doughnut": "🍩", "cookie": "🍪", "chocolate bar": "🍫", "lollipop": "🍭", "honey pot": "🍯", "ice cream": "🍦",
    "sushi": "🍣", "french fries": "🍟", "rice ball": "🍙", "wine glass": "🍷", "beer mug": "🍺", "onion": "🧅",
    "waffle": "🧇", "cupcake": "🧁", "steam train": "🚂", "bus": "🚌", "ambulance": "🚑", "fire engine": "🚒",
    "police car": "🚓", "taxi": "🚕", "delivery truck": "🚚", "tractor": "🚜", "helicopter": "🚁", "motorcycle": "🏍",
    "kick scooter": "🛴", "ship": "🚢", "canoe": "🛶", "flying saucer": "🛸", "satellite": "🛰", "anchor": "⚓",
    "parachute": "🪂", "traffic light": "🚦", "alarm clock": "⏰", "hourglass": "⏳", "telephone": "☎",
    "television": "📺", "camera": "📷", "radio": "📻", "laptop": "💻", "light bulb": "💡", "candle": "🕯",
    "open book": "📖", "pencil": "✏", "scissors": "✂", "hammer": "🔨", "wrench": "🔧", "key": "🔑", "padlock": "🔒",
    "bell": "🔔", "magnet": "🧲", "microscope": "🔬", "telescope": "🔭", "bomb": "💣", "diamond": "💎",
    "lipstick": "💄", "running shoe": "👟", "high heel": "👠", "dress": "👗", "shirt": "👕", "jeans": "👖",
    "top hat": "🎩", "eyeglasses": "👓", "backpack": "🎒", "gift box": "🎁", "trophy": "🏆", "soccer ball": "⚽",
    "basketball": "🏀", "tennis ball": "🎾", "dice": "🎲", "teddy bear": "🧸", "kite": "🪁", "drum": "🥁",
    "trumpet": "🎺", "violin": "🎻", "saxophone": "🎷", "microphone": "🎤", "headphones": "🎧", "paint palette": "🎨",
    "dart board": "🎯", "ferris wheel": "🎡", "tent": "⛺", "fountain": "⛲", "stone head": "🗿", "church": "⛪",
    "factory": "🏭", "volcano": "🌋", "rainbow": "🌈", "snowman": "⛄", "snowflake": "❄", "campfire": "🔥",
    "moon": "🌙", "sun": "☀", "star": "⭐", "tornado": "🌪", "globe": "🌍", "rose": "🌹", "tulip": "🌷",
    "cactus": "🌵", "palm tree": "🌴", "maple leaf": "🍁", "cherry blossom": "🌸", "ghost": "👻", "alien": "👽",
    "robot": "🤖", "skull": "💀", "pumpkin lantern": "🎃", "crystal ball": "🔮", "broom": "🧹", "toothbrush": "🪥",
    "chair": "🪑", "bathtub": "🛁", "sword": "🗡",
}  # fmt: skip

# By core object, an English synonym and the Spanish name.
OBJECT_ALIASES: dict[str, tuple[str, str]] = {
    "cat": ("kitty", "gato"), "dog": ("hound", "perro"), "fish": ("trout", "pez"), "butterfly": ("moth", "mariposa"),
    "elephant": ("tusker", "elefante"), "rooster": ("cockerel", "gallo"), "tree": ("oak", "arbol"),
    "sunflower": ("helianthus", "girasol"), "apple": ("pippin", "manzana"), "pizza": ("pie slice", "porcion"),
    "cake": ("gateau", "pastel"), "coffee": ("espresso", "cafe"), "car": ("automobile", "coche"),
    "rocket": ("spaceship", "cohete"), "sailboat": ("yacht", "velero"), "airplane": ("jet", "avion"),
    "bicycle": ("bike", "bicicleta"), "castle": ("fortress", "castillo"), "house": ("cottage", "casa"),
    "guitar": ("electric axe", "guitarra"), "balloon": ("party float", "globo"), "umbrella": ("parasol", "paraguas"),
    "crown": ("diadem", "corona"), "mushroom": ("toadstool", "seta"),
}  # fmt: skip

STYLE_ALIASES: dict[str, str] = {
    "plain": "ordinary", "sketch": "pencil drawing", "pixel": "mosaic", "neon": "glowing",
    "watercolor": "aquarelle", "blueprint": "technical plan", "sepia": "old photo", "dots": "halftone",
    "woodcut": "linocut", "popart": "screenprint",
}  # fmt: skip

# Templates of training prompts. `{o}` is an object (or its alias), `{s}` a style.
STYLED_TEMPLATES: tuple[str, ...] = (
    "a {o} image in {s} style", "a {o} in {s} style", "{o}, {s}", "{s} {o}", "an image of a {o}, {s} style",
    "a {s} picture of a {o}", "{o} in the style of {s}", "a {s} style {o}",
)  # fmt: skip
OBJECT_TEMPLATES: tuple[str, ...] = ("{o}", "a {o}", "an image of a {o}", "a picture of a {o}", "one {o}", "the {o}")
STYLE_TEMPLATES: tuple[str, ...] = ("{s}", "{s} style", "an image in {s} style", "in the style of {s}", "a {s} picture")

# Templates of evaluation prompts, held out from training: grid, further names, paraphrases.
GRID_TEMPLATE = "a picture of a {o} in {s} style"
NAME_TEMPLATE = "an image of the {o}"
PARAPHRASES: tuple[str, ...] = ("{s} image: {o}", "there is a {o} here, {s} style", "a {o} made in {s}")


def list_a() -> list[str]:
    """Return the 100 names that the protocols for many names erase."""
    return list(NAMES)[0::2]


def list_b() -> list[str]:
    """Return the 100 names that the protocols for many names retain."""
    return list(NAMES)[1::2]


def drawables() -> dict[str, str]:
    """Return every name that the renderer can draw, with its glyph: core objects first, then the 200 further names."""
    return {**OBJECTS, **NAMES}


def grid_prompt(obj: str, style: str) -> str:
    """Return the evaluation prompt of a cell of the object x style grid."""
    return GRID_TEMPLATE.format(o=obj, s=style)


def name_prompt(name: str) -> str:
    """Return the evaluation prompt of one of the 200 further names."""
    return NAME_TEMPLATE.format(o=name)


def pair(name: str) -> tuple[str, str] | None:
    """Return the object and the style of a pair such as "cat in neon style", or None if the name is no pair.

    >>> pair("cat in neon style"), pair("cat")
    (('cat', 'neon'), None)
    """
    obj, _, style = name.removesuffix(" style").partition(" in ")
    is_pair = name.endswith(" style") and obj in OBJECTS and style in STYLES
    return (obj, style) if is_pair else None


def pair_name(obj: str, style: str) -> str:
    """Return the name of a pair of object and style; the inverse of `pair`."""
    return f"{obj} in {style} style"


def words(concept: str) -> tuple[str, ...]:
    """Return all names of a core object or style, its main name first."""
    return (concept, *aliases(concept))


def known_words() -> set[str]:
    """Return every name of an object or a style that the models were trained on, aliases included, normalised."""
    return {normalise_name(w) for name in (*drawables(), *STYLES) for w in words(name)}


def aliases(concept: str) -> tuple[str, ...]:
    """Return the aliases of a core object (synonym, Spanish name) or a style (synonym); empty if there are none."""
    if concept in OBJECT_ALIASES:
        return OBJECT_ALIASES[concept]
    return (STYLE_ALIASES[concept],) if concept in STYLE_ALIASES else ()
