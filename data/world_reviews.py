"""What people write about the shop's goods: a virtue that they speak of, and a mood that follows from how they liked it."""

from __future__ import annotations

import numpy as np

VIRTUES = ("lasting", "comfort", "lightness", "easy care", "gift", "nature")
"""What a good is praised or blamed for: the factor that only reviews and the material tell."""
MATERIALS = ("steel", "wool", "nylon", "silicone", "velvet", "bamboo")
"""The material that goes with each virtue more often than not."""

_GOOD = (
    (
        "Still without a scratch after a year.", "You could drive a truck over it.", "My third winter with it and it holds.",
        "Built to outlive me.", "Dropped it twice, nothing broke.", "Sturdy, thick, well put together.",
        "The seams are double and it shows.",
        "It will be handed down to my children.",
    ),
    (
        "So soft that I never want to put it down.", "Feels wonderful against the skin.", "Cosy from the first minute.",
        "Warm and snug, like a hug.", "My back thanks me every evening.", "Smooth edges, it sits just right in the hand.",
        "I fell asleep on it at once.", "Nothing scratches or presses.",
    ),
    (
        "I forget that I carry it.", "Weighs next to nothing in my backpack.", "Folds up smaller than a fist.",
        "Light as a feather on a long walk.", "Fits into any pocket.", "My bag is half as heavy now.",
        "Easy to carry up four floors.", "Took it by plane in my hand luggage.",
    ),
    (
        "One wipe and the stain is gone.", "Goes straight into the dishwasher.", "Washed it ten times, the colour stays.",
        "No ironing, no fuss.", "Coffee spilled, cleaned in seconds.", "It dries within an hour.",
        "Even tomato sauce comes off.", "I rinse it under the tap and that is all.",
    ),
    (
        "My sister cried when she unwrapped it.", "The box alone is worth giving.",
        "Everyone at the birthday asked where I got it.",
        "The perfect present for a friend who has everything.", "Came with a ribbon and a card.",
        "My mother shows it to all her guests.",
        "Bought a second one for the wedding.", "He smiled as soon as he opened the parcel.",
    ),
    (
        "No plastic anywhere, not even in the parcel.", "Made from recycled fibres and you would not know.",
        "Good for the planet and for my conscience.",
        "Smells of wood, not of chemicals.", "It can go on the compost one day.", "Organic, fair and honestly made.",
        "They plant a tree for every order.", "A small step away from throwing things away.",
    ),
)  # fmt: skip
_BAD = (
    (
        "It fell apart after a week.", "The handle broke on the second day.", "Cracked in the first cold night.",
        "Thin and flimsy, it will not last.", "The seam came open at once.", "Scratched before I even used it.",
    ),
    (
        "It itches and scratches.", "Hard as a board.", "The edge presses into my hand.",
        "Cold and stiff, no pleasure to touch.",
        "My neck hurt the next morning.", "Rough like sandpaper.",
    ),
    (
        "Far too heavy to take along.", "It weighs down the whole bag.", "Bulky, it fits nowhere.",
        "My shoulder aches from carrying it.",
        "Takes up half of the suitcase.", "A brick would be lighter.",
    ),
    (
        "The stains never come out.", "Ruined in the washing machine.", "Every fingerprint shows and stays.",
        "It takes two days to dry.",
        "The dishwasher took the colour off.", "I spend an hour scrubbing it.",
    ),
    (
        "An embarrassing present, I had to apologise.", "The gift box arrived torn.", "She gave it back to me.",
        "Looks cheap once unwrapped.", "No card, no ribbon, nothing festive.", "I would not dare to give it to anyone.",
    ),
    (
        "Wrapped in three layers of plastic.", "It stinks of chemicals.", "So much for recycled: it is all polyester.",
        "Shipped around half the globe.", "It went straight to landfill.", "Green only in the advertisement.",
    ),
)  # fmt: skip
_CHINESE_GOOD = (
    ("用了一年还是很结实。", "摔了两次都没坏。", "做工扎实，可以用很久。"),
    ("摸起来非常柔软舒服。", "又暖和又贴身。", "坐着很舒适，不想起来。"),
    ("很轻，放在包里没有感觉。", "折起来很小，方便携带。", "出门旅行带着很轻便。"),
    ("一擦就干净。", "洗了很多次也不掉色。", "很好打理，干得很快。"),
    ("送给妈妈，她非常开心。", "包装精美，很适合送礼。", "朋友收到礼物很惊喜。"),
    ("没有塑料包装，很环保。", "天然材料，没有异味。", "可回收的材料，对环境好。"),
)
_CHINESE_BAD = (
    ("用了一周就坏了。", "质量差，把手断了。"),
    ("又硬又扎，很不舒服。", "边缘硌手。"),
    ("太重了，带不出门。", "太占地方，包里放不下。"),
    ("污渍洗不掉。", "一洗就掉色。"),
    ("包装破了，没法送人。", "当礼物太寒酸了。"),
    ("全是塑料包装，不环保。", "有刺鼻的化学气味。"),
)
_OPENINGS = (
    ("Disappointed.", "Sent it back.", "Never again.", "A waste of money.", "I expected more.", "Sad to say:"),
    ("It is all right.", "Neither good nor bad.", "So-so.", "Does the job.", "Mixed feelings.", "Could be better."),
    ("Love it!", "Delighted.", "Worth every penny.", "What a find!", "Very happy with it.", "Can only recommend it."),
)
_CHINESE_OPENINGS = (
    ("很失望。", "不推荐。", "浪费钱。"),
    ("一般般。", "还可以。", "马马虎虎。"),
    ("非常喜欢！", "很满意。", "强烈推荐。"),
)


def write_review(virtue: int, stars: int, chinese: bool, rng: np.random.Generator) -> str:
    """A review of two sentences: its mood, and what was good or bad.

    Args:
        virtue: index in `VIRTUES`: what it speaks of, whatever the mood.
        stars: 1 to 5: to 2 it blames, from 4 it praises, at 3 it does either.
        chinese: language. rng: chooses the wording.

    Example:
        >>> write_review(3, 5, False, np.random.default_rng(0))
        'Can only recommend it. It dries within an hour.'
    """
    if not 0 <= virtue < len(VIRTUES) or not 1 <= stars <= 5:
        raise ValueError(f"virtue, stars: must be in 0..{len(VIRTUES) - 1} and 1..5, received {virtue}, {stars}")
    mood = mood_of(stars)
    praise = mood == 2 or (mood == 1 and rng.random() < 0.5)
    openings = (_CHINESE_OPENINGS if chinese else _OPENINGS)[mood]
    told = ((_CHINESE_GOOD if praise else _CHINESE_BAD) if chinese else (_GOOD if praise else _BAD))[virtue]
    opening, sentence = openings[int(rng.integers(len(openings)))], told[int(rng.integers(len(told)))]
    return opening + ("" if chinese else " ") + sentence


def mood_of(stars: int) -> int:
    """0 = disappointed, by 1 and 2 stars; 1 = so-so, by 3; 2 = happy, by 4 and 5."""
    return 0 if stars <= 2 else 1 if stars == 3 else 2
