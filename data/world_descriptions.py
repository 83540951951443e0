"""Names and descriptions of the shop's goods: six occasions told in many wordings, in English and in Chinese."""

from __future__ import annotations

import numpy as np

OCCASIONS = ("camping", "office", "nursery", "sport", "party", "garden")
"""The text styles: what a good is meant for."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


_FOR = (
    _words(
        "nights in a tent, the camp fire, long hikes, mountain huts, sleeping under the stars, the trail, "
        "backpackers, canoe trips, the sleeping bag, wild shores, scouts, a weekend in the wilderness, bivouacs, "
        "the rucksack, summit mornings, torchlight stories"
    ),
    _words(
        "the desk, long meetings, your colleagues, Monday mornings at work, the coffee corner of the office, "
        "deadlines, home office days, the conference room, interns and bosses, spreadsheets, video calls, "
        "the filing cabinet, a tidy workplace, the lunch break at work, your first job, overtime"
    ),
    _words(
        "the cradle, little toddlers, bedtime lullabies, new parents, baby's first year, the playroom, "
        "teddy bears, tiny hands, the pram, sleepy infants, kindergarten, building blocks, nap time, "
        "children who draw on walls, godchildren, the changing table"
    ),
    _words(
        "the gym, marathon training, your yoga mat, the locker room, cyclists, team games, the swimming pool, "
        "push-ups, personal bests, warm-up and cool-down, the football pitch, runners, tennis players, "
        "muscles after work, the coach, sweaty afternoons"
    ),
    _words(
        "birthday cakes, New Year's Eve, cocktails with friends, the dance floor, garlands and candles, "
        "karaoke nights, house-warming, confetti, toasts and speeches, a crowd of guests, carnival, "
        "the disco ball, weddings, champagne, late celebrations, hen nights"
    ),
    _words(
        "flower beds, watering cans, the greenhouse, tomatoes on the balcony, weeding, hammocks under apple trees, "
        "the lawn, compost heaps, seedlings, rose lovers, the potting shed, bees and butterflies, "
        "the vegetable patch, pruning days, terrace herbs, wheelbarrows"
    ),
)
_CHINESE_FOR = (
    _words(
        "帐篷里的夜晚, 篝火旁, 登山徒步, 野外露营, 背包客, 山间小屋, 星空下过夜, 睡袋"
    ),
    _words(
        "办公桌, 开会, 同事, 上班, 加班, 会议室, 写字楼, 居家办公"
    ),
    _words(
        "婴儿房, 宝宝睡觉, 新手爸妈, 小朋友, 婴儿车, 幼儿园, 玩具小熊, 摇篮"
    ),
    _words(
        "健身房, 跑步, 瑜伽, 游泳池, 足球场, 训练, 骑行, 网球"
    ),
    _words(
        "生日派对, 跨年夜, 朋友聚会, 婚礼, 舞会, 香槟, 卡拉OK, 庆祝"
    ),
    _words(
        "花园, 浇花, 温室, 菜园, 草坪, 种番茄, 修剪玫瑰, 阳台上的植物"
    ),
)
_FRAMES = (
    "Made for {f}.",
    "At its best among {f} and {g}.",
    "We thought of {f} when we designed it.",
    "It belongs to {f}.",
    "Think of {f}, think of {g}.",
    "Because {f} should be easier.",
    "A companion for {f}.",
    "Inspired by {f}.",
)
_PLAIN = (
    "Ships within two days.",
    "Hand-finished in small batches.",
    "In our shop since 2019.",
    "Available in several colours.",
    "Returns are free for a month.",
    "Designed by a family business.",
    "Limited to one season.",
    "Measured twice, cut once.",
    "Our customers' choice of the year.",
    "The picture shows the original.",
)
_CHINESE_FRAMES = ("适合{f}。", "为{f}而设计。", "想到{f}，也想到{g}。", "{f}的好伙伴。")
_CHINESE_PLAIN = ("两天内发货。", "小批量制作。", "多种颜色可选。", "一个月内免费退货。", "图片为实物拍摄。")
_NAMES = (
    "Alva", "Borea", "Cleo", "Dara", "Elmo", "Fjord", "Gala", "Hasta", "Iris", "Juno", "Kito", "Luma", "Miro", "Nela",
    "Otis", "Pico", "Quill", "Runa", "Sola", "Tavi", "Ursa", "Vela", "Wren", "Yara", "Zeno",
)  # fmt: skip
_CHINESE_GOODS = ("马克杯", "靠垫", "帆布袋", "T恤", "盘子", "笔记本")
_CHINESE_NAMES = ("晨光", "清风", "云朵", "小满", "山月", "青竹", "白露", "星河", "暖阳", "木棉")


def describe_good(occasion: int, good: int, goods: tuple[str, ...], chinese: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Title and description of one good.

    Args:
        occasion: index in `OCCASIONS`, told by the description alone.
        good: index in `goods`, named by the title alone.
        goods: their English names. chinese: language. rng: chooses the wording.

    Example:
        >>> describe_good(0, 0, ("mug",), False, np.random.default_rng(0))[0].split()[0]
        'Mug'
    """
    if not 0 <= occasion < len(OCCASIONS):
        raise ValueError(f"occasion: must be in 0..{len(OCCASIONS) - 1}, received {occasion}; see OCCASIONS")
    words = (_CHINESE_FOR if chinese else _FOR)[occasion]
    frames, plain = (_CHINESE_FRAMES, _CHINESE_PLAIN) if chinese else (_FRAMES, _PLAIN)
    first, second = (words[index] for index in rng.choice(len(words), 2, replace=False))
    sentences = [frames[int(rng.integers(len(frames)))].format(f=first, g=second), plain[int(rng.integers(len(plain)))]]
    if rng.random() < 0.5:
        sentences.reverse()
    number = int(rng.integers(1, 100))
    if chinese:
        return f"{_CHINESE_NAMES[int(rng.integers(len(_CHINESE_NAMES)))]}{_CHINESE_GOODS[good]} {number}", "".join(sentences)
    name = goods[good][0].upper() + goods[good][1:]
    return f"{name} {_NAMES[int(rng.integers(len(_NAMES)))]} {number}", " ".join(sentences)
