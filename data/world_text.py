"""Titles and descriptions of the demo world: six themes told in many phrasings, in English and in Chinese."""

from __future__ import annotations

import numpy as np

THEMES = ("sea", "space", "kitchen", "forest animals", "city trains", "castle")
"""The text styles. Only subject words differ: no phrase hints at a cover, a sound, a domain or a creator."""

_PLACES = (
    ("harbour", "lighthouse", "coral reef", "fishing village", "open ocean", "rocky coast", "ship's deck", "tidal bay"),
    (
        "moon",
        "space station",
        "observatory",
        "rings of Saturn",
        "launch pad",
        "Milky Way",
        "Martian desert",
        "lunar orbit",
    ),
    (
        "bakery",
        "spice market",
        "grandmother's kitchen",
        "village oven",
        "noodle stall",
        "dinner table",
        "pantry",
        "café",
    ),
    (
        "pine forest",
        "fox den",
        "mossy clearing",
        "beaver pond",
        "oak tree",
        "bear cave",
        "woodland trail",
        "owl's nest",
    ),
    (
        "subway platform",
        "central station",
        "night bus stop",
        "tram line",
        "railway bridge",
        "ticket hall",
        "avenue",
        "depot",
    ),
    ("castle", "throne room", "drawbridge", "royal court", "dragon's lair", "jousting field", "stone tower", "kingdom"),
)
_BEINGS = (
    ("sailors", "whales", "fishermen", "dolphins", "pearl divers", "lost captains", "seagulls", "lighthouse keepers"),
    ("astronauts", "comets", "stargazers", "satellites", "cosmonauts", "distant planets", "meteors", "moon walkers"),
    (
        "bakers",
        "hungry cooks",
        "soup makers",
        "pastry chefs",
        "dinner guests",
        "tea drinkers",
        "chefs",
        "spice sellers",
    ),
    ("foxes", "wolves", "owls", "badgers", "lonely bears", "squirrels", "deer", "hedgehogs"),
    (
        "commuters",
        "train drivers",
        "conductors",
        "late passengers",
        "taxi drivers",
        "night guards",
        "travellers",
        "porters",
    ),
    ("knights", "young queens", "dragons", "old kings", "squires", "sword makers", "royal guards", "court wizards"),
)
_THINGS = (
    ("tides", "anchors", "storm waves", "sails", "seashells", "fishing nets", "salt water", "driftwood"),
    ("stars", "rockets", "galaxies", "eclipses", "telescopes", "gravity", "spacesuits", "asteroids"),
    ("warm bread", "cinnamon", "dumplings", "recipes", "honey cake", "garlic", "lemon tea", "apple pie"),
    ("acorns", "paw prints", "wild berries", "pine needles", "antlers", "mushrooms", "feathers", "burrows"),
    ("timetables", "last trains", "rails", "rush hour", "train tickets", "crowded carriages", "tunnels", "luggage"),
    ("crowns", "swords", "shields", "banners", "armour", "royal feasts", "sieges", "tournaments"),
)
_SENTENCES = (
    (
        "{Beings} and {beings2} cross the {place}, carried along by {thing}.",
        "It follows {beings} who set sail from the {place} with nothing but {thing}.",
        "A voyage over the water, past the {place}, where {beings} listen for {thing}.",
    ),
    (
        "{Beings} drift beyond the {place} in a sky full of {thing}.",
        "A journey through outer space, from the {place} to {thing}, told by {beings}.",
        "It begins at the {place} with a countdown and ends among {thing} and {beings2}.",
    ),
    (
        "{Beings} meet in the {place} to cook and share {thing}.",
        "A meal in several courses: {thing}, {thing2}, and {beings} who never leave the {place}.",
        "It smells of {thing}, fresh from the {place}, where {beings} taste everything twice.",
    ),
    (
        "{Beings} wake in the {place} and go looking for {thing} in the woods.",
        "It listens to wild animals: {beings} and {beings2}, near the {place}.",
        "A walk under tall trees, by the {place}, following {thing} left by {beings}.",
    ),
    (
        "{Beings} wait at the {place} while the city counts {thing}.",
        "Between two stops, {beings} and {beings2} share {thing} in downtown traffic.",
        "It runs through the city from the {place} to the suburbs, with {thing} and {beings}.",
    ),
    (
        "{Beings} ride to the {place} with {thing} and an oath to keep.",
        "A medieval legend of {beings} and {beings2}, of {thing} and the {place}.",
        "Long ago, inside the {place}, {beings} fought over {thing}.",
    ),
)
_TITLES = (
    "The {Place}",
    "{Things} and {Things2}",
    "{Beings} of the {Place}",
    "Letters from the {Place}",
    "{Things} for {Beings}",
    "What {Beings} Know",
    "Beyond the {Place}",
    "One Night with {Beings}",
    "{Beings}, {Beings2}",
    "A Short History of {Things}",
)
_CLOSINGS = (
    "Made in one long weekend and left almost untouched.",
    "The third part of a series that may never end.",
    "Found in a drawer after many years.",
    "Best taken in one sitting.",
    "A small edition with a handwritten note.",
    "It was started twice and finished once.",
    "Friends call it their most patient work.",
    "Includes an alternate ending.",
    "Nobody expected a second edition.",
    "Dedicated to everyone who stayed until the end.",
)
_CHINESE = (
    (
        ("大海", "海湾", "港口", "海岛", "灯塔", "海岸"),
        ("水手", "渔夫", "海鸟", "船长"),
        "{b}从{a}出发，看{a2}边的波浪和船。",
    ),
    (
        ("太空", "星空", "月球", "火星", "银河", "宇宙"),
        ("宇航员", "天文学家", "火箭", "卫星"),
        "{b}飞向{a}，在{a2}里看星星和行星。",
    ),
    (
        ("厨房", "面包店", "茶馆", "饭桌", "市场", "小吃店"),
        ("厨师", "面包师", "奶奶", "食客"),
        "{b}在{a}做饭，{a2}里有面包、米饭和热茶的香味。",
    ),
    (
        ("森林", "松林", "山林", "林中小屋", "树洞", "林间"),
        ("狐狸", "小熊", "野狼", "小鹿"),
        "{b}住在{a}，走过{a2}的树木和草地，野生动物都醒了。",
    ),
    (
        ("地铁", "火车站", "电车", "城市", "夜班车", "站台"),
        ("司机", "乘客", "旅人", "上班的人"),
        "{b}在{a}等车，列车穿过{a2}和市中心的街道。",
    ),
    (
        ("城堡", "王国", "王宫", "古塔", "王座", "宫殿"),
        ("国王", "骑士", "女王", "王子"),
        "{b}守着{a}，中世纪的{a2}里有王冠、宝剑和巨龙。",
    ),
)
_CHINESE_TITLES = ("{a}旧事", "{a}与{b}", "{b}的{a}", "{a}来信", "{b}之夜", "从{a}到{a2}", "{b}和{a2}的约定", "再见{a}")
_CHINESE_CLOSINGS = ("限量发行。", "一个周末完成。", "系列的第三部分。", "适合一次听完。", "献给留到最后的人。")


def write_text(theme: int, chinese: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Title and description of one item.

    Args:
        theme: index in `THEMES`, the only thing the words tell.
        chinese: language of both strings.
        rng: chooses among the phrasings.

    Returns:
        (title, description), neither empty.

    Example:
        >>> title, description = write_text(1, False, np.random.default_rng(0))
        >>> len(title) > 3 and description.endswith(".")
        True
    """
    if not 0 <= theme < len(THEMES):
        raise ValueError(f"theme: must be in 0..{len(THEMES) - 1}, received {theme}; see THEMES")
    if chinese:
        places, people, sentence = _CHINESE[theme]
        a, a2 = (places[i] for i in rng.permutation(len(places))[:2])
        words = {"a": a, "a2": a2, "b": _pick(rng, people)}
        return _pick(rng, _CHINESE_TITLES).format(**words), sentence.format(**words) + _pick(rng, _CHINESE_CLOSINGS)
    beings, beings2 = (_BEINGS[theme][i] for i in rng.permutation(len(_BEINGS[theme]))[:2])
    thing, thing2 = (_THINGS[theme][i] for i in rng.permutation(len(_THINGS[theme]))[:2])
    place = _pick(rng, _PLACES[theme])
    words = {"place": place, "beings": beings, "beings2": beings2, "thing": thing, "thing2": thing2}
    words |= {"Beings": beings[0].upper() + beings[1:]}
    headline = {"Place": place, "Beings": beings, "Beings2": beings2, "Things": thing, "Things2": thing2}
    title = _pick(rng, _TITLES).format(**{name: _headline(word) for name, word in headline.items()})
    return title, _pick(rng, _SENTENCES[theme]).format(**words) + " " + _pick(rng, _CLOSINGS)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _headline(words: str) -> str:
    """Capitals for a title; `str.title` would write "Ship'S"."""
    return " ".join(word if word == "of" else word[0].upper() + word[1:] for word in words.split(" "))
