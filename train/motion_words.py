"""Which moving emoji are learned from, which are shown more often, and what their motion is called."""

from __future__ import annotations

import re

# Of people only hands and other parts are kept: 128 pixels hold no moving figure, and the picture model draws none.
KEPT = re.compile(
    r"hand|thumb|fist|finger|ear$|^eyes?$|mouth|tongue|nose|biceps|ghost|alien|skull|ogre|goblin|heart|kiss|santa|"
    r"snow|superhero|robot|astronaut|baby$|mechanical|brain|lungs|monster"
)

# What first prompts ask for: learned best, because a small model has to choose.
FIRST = {
    "waving hand", "red heart", "beating heart", "grinning face", "face with tears of joy", "winking face",
    "smiling face with sunglasses", "smiling face with heart-eyes", "dog face", "cat face", "penguin", "panda", "frog",
    "fire", "rocket", "ghost", "robot", "butterfly", "fish", "unicorn", "star", "alarm clock", "snowman",
    "clapping hands",
}  # fmt: skip

# What is asked for next.
SHOWN = {
    "thumbs up", "ok hand", "raised hand", "folded hands", "blue heart", "green heart", "yellow heart", "purple heart",
    "sparkling heart", "growing heart", "rolling on the floor laughing", "thinking face", "crying face", "star-struck",
    "partying face", "fox", "monkey face", "owl", "octopus", "turtle", "alien", "glowing star", "automobile", "sun",
    "sun with face", "christmas tree", "birthday cake", "jack-o-lantern", "bird", "pig face", "rabbit face", "bear",
    "lion", "whale", "spouting whale", "dolphin", "duck", "cloud with rain", "police car", "hot beverage", "airplane",
    "chicken", "hourglass done", "baby chick", "elephant", "snail", "honeybee",
}  # fmt: skip

# Things without a moving picture, set in motion here.
STILLS = {
    "red apple", "green apple", "pear", "banana", "strawberry", "lemon", "pizza", "hamburger", "doughnut", "cookie",
    "mushroom", "sunflower", "tulip", "rose", "deciduous tree", "evergreen tree", "cactus", "house", "balloon",
    "soccer ball", "basketball", "tennis ball", "crown", "gem stone", "key", "light bulb", "bell", "gift", "guitar",
    "trophy", "cherry blossom", "watermelon", "carrot", "ice cream", "cupcake", "lollipop", "top hat", "books",
    "umbrella on ground", "pumpkin", "tangerine", "peach", "cherries", "pineapple", "avocado", "tomato", "bread",
    "cheese wedge", "shortcake", "blossom", "castle", "tent", "anchor", "american football", "volleyball",
}  # fmt: skip

WEIGHTS = ((FIRST, 20.0), (SHOWN, 4.0))


def base_weight(label: str) -> float:
    """How often a clip is shown, relative to an ordinary one.

    >>> base_weight("waving hand"), base_weight("fox"), base_weight("dodo")
    (20.0, 4.0, 1.0)
    """
    return next((weight for labels, weight in WEIGHTS if label in labels), 1.0)


# The first pattern found in a label names its motion.
WORDS = (
    (re.compile(r"waving|clapping|beating|growing|crying|winking|bouncing|swaying|pulsing"), ""),
    (re.compile(r"heart$"), "beating"),
    (re.compile(r"fire$|fireworks"), "burning"),
    (re.compile(r"star$|sparkl|sun"), "shining"),
    (re.compile(r"car$|automobile|taxi|bus$|truck|tractor|engine|lorry|locomotive|tram"), "driving"),
    (re.compile(r"bird|butterfly|bee$|bat$|owl|eagle|parrot|airplane|helicopter|rocket|dove|saucer"), "flying"),
    (re.compile(r"fish|whale|dolphin|shark|octopus|squid|turtle|seal|otter"), "swimming"),
    (re.compile(r"joy|laughing|grinning"), "laughing"),
    (re.compile(r"boat|ship$|ferry|canoe"), "sailing"),
)


def motion_words(label: str) -> str:
    """The word for what `label` does; "" where it says so itself, "moving" where nothing better is known.

    >>> motion_words("red heart"), motion_words("waving hand"), motion_words("panda")
    ('beating', '', 'moving')
    """
    return next((word for pattern, word in WORDS if pattern.search(label)), "moving")
