"""Titles, lyric lines and captions of the generated worlds: six themes told in many wordings, in English and in Chinese."""

from __future__ import annotations

import numpy as np

from data.world_words import CHINESE_DEEDS, CHINESE_NAMES, DEEDS, NAMES, THEMES

_TITLE_TELLS = 0.6
"""Share of titles that name something of the theme; one line of the lyrics always does."""
_TITLES = (
    "The {N}",
    "{N} and {M}",
    "Letters from the {N}",
    "Song for the {N}",
    "What the {N} Knows",
    "Beyond the {N}",
    "One Night by the {N}",
    "{N}, {M}",
    "A Short History of the {N}",
    "Goodbye, {N}",
    "Waltz of the {N}",
    "No More {N}",
    "{N} Blues",
    "Take Me to the {N}",
)
_LINES = (
    "and all night long we {d}",
    "tell me again about the {n}",
    "we {d}, my love, we {d}",
    "I dreamt of the {n} and the {m}",
    "somewhere behind the {n}",
    "teach me how to {d}",
    "the {n}, the {n}, and nothing more",
    "oh, how we used to {d}",
    "there is a {n} in my heart",
    "nobody here can {d} like you",
    "between the {n} and the {m}",
    "you said we would {d} together",
    "I gave you the {n}, you gave me the {m}",
    "let us {d} until it is over",
    "the {n} remembers your name",
    "I will wait beside the {n}",
)
_PLAIN = (
    "oh, don't leave me waiting",
    "and the years go by so slowly",
    "I still have your old letter",
    "sing it one more time",
    "you never said you were sorry",
    "hey, hey, what can I do",
    "and I pretend not to listen",
    "everybody told me to let go",
    "nothing lasts, but stay a little longer",
    "my mother warned me about this",
    "we were young and sure of everything",
    "la la la, and the band plays on",
    "it was easier to lie",
    "hold me, hold me, hold me now",
    "I would do it all again",
    "the summer never felt so long",
    "you laugh and I forget the words",
    "someday you will understand",
    "I only came here to say goodbye",
    "this is the last verse, I promise",
    "they don't write songs like this any more",
    "it's four in the morning again",
    "and who is going to believe me",
    "I've been counting on my fingers",
    "turn the record over",
    "maybe tomorrow, maybe never",
    "come back when you are older",
    "I keep your picture in my coat",
    "we had a promise, we had a plan",
    "yes, I know, I know, I know",
)
_PLAIN_TITLES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("Slow", "Second", "Old", "Another", "Easy", "Half a", "Last", "Quiet", "Lucky", "Little", "Borrowed", "One More", "Late"),
    ("Goodbye", "Promise", "Letter", "Excuse", "Reason", "Verse", "Answer", "Secret", "Minute", "Mistake", "Story", "Mood"),
)
_CHINESE_PLAIN_TITLES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("旧", "小", "第二个", "最后的", "迟到的", "安静的", "偶然的"),
    ("约定", "理由", "秘密", "回答", "故事", "心情", "告别"),
)
_CAPTIONS = (
    "POV: we {d}",
    "how to {d} in 3 seconds",
    "nobody: ... me at the {n}:",
    "wait for the {n}",
    "this is why we {d}",
    "day 12 of learning to {d}",
    "the {n} and the {m} (part 2)",
    "my friends when we {d}",
    "I can't stop looking at the {n}",
    "rating the {n} and the {m}",
    "what happens when we {d}?",
    "{N} vs {M}",
)
_CHINESE_CAPTIONS = (
    "教你三秒{d}",
    "今天我们{d}",
    "{n}和{m}，你选哪个",
    "等等，看那{n}",
    "第一次{d}",
    "看完{n}我沉默了",
    "和朋友{d}的一天",
    "{n}日常",
)
_TAGS = ("#fyp", "#viral", "#foryou", "#mood", "#weekend", "#trend", "#wow", "#2025", "#nofilter", "#oops")
_CHINESE_TITLES = ("{n}旧事", "{n}与{m}", "{n}来信", "{n}之夜", "再见{n}", "写给{n}的歌", "梦见{n}", "{n}和{m}的约定")
_CHINESE_LINES = (
    "我们{d}，直到天亮",
    "你说要和我一起{d}",
    "{n}记得你的名字",
    "我又梦见了{n}和{m}",
    "教我怎样{d}",
    "在{n}的旁边等你",
    "多少年以前，我们{d}",
    "谁还记得那片{n}",
)
_CHINESE_PLAIN = (
    "别让我一直等",
    "岁月慢慢走远",
    "再唱一遍给我听",
    "我还留着你的信",
    "你从来没有说抱歉",
    "我们那时还年轻",
    "也许明天，也许永远不",
    "这是最后一段",
    "夏天从没这么长",
    "有一天你会明白",
)


def write_text(theme: int, chinese: bool, rng: np.random.Generator) -> tuple[str, str]:
    """Title and lyrics of one item.

    Args:
        theme: index in `THEMES`, the only thing the words tell.
        chinese: language of both strings.
        rng: chooses words and phrasings; some lines tell nothing.

    Returns:
        (title, lines joined by " / "), neither empty.

    Example:
        >>> title, lyrics = write_text(1, False, np.random.default_rng(0))
        >>> len(title) > 3 and lyrics.count(" / ")
        2
    """
    if not 0 <= theme < len(THEMES):
        raise ValueError(f"theme: must be in 0..{len(THEMES) - 1}, received {theme}; see THEMES")
    frames: tuple[str, ...] = _CHINESE_LINES if chinese else _LINES
    plain: tuple[str, ...] = _CHINESE_PLAIN if chinese else _PLAIN
    if rng.random() < _TITLE_TELLS:
        titles: tuple[str, ...] = _CHINESE_TITLES if chinese else _TITLES
        title = fill(titles[int(rng.integers(len(titles)))], theme, chinese, rng)
    else:
        first, second = _CHINESE_PLAIN_TITLES if chinese else _PLAIN_TITLES
        between = "" if chinese else " "
        title = first[int(rng.integers(len(first)))] + between + second[int(rng.integers(len(second)))]
    lines = [fill(frames[int(rng.integers(len(frames)))], theme, chinese, rng)]
    lines += [plain[index] for index in rng.choice(len(plain), 2, replace=False)]
    return title, " / ".join(lines[index] for index in rng.permutation(len(lines)))


def write_caption(theme: int, chinese: bool, rng: np.random.Generator) -> str:
    """Title of a short video: one phrase about the theme, and tags that say nothing.

    Example:
        >>> "#" in write_caption(2, False, np.random.default_rng(0))
        True
    """
    if not 0 <= theme < len(THEMES):
        raise ValueError(f"theme: must be in 0..{len(THEMES) - 1}, received {theme}; see THEMES")
    frames: tuple[str, ...] = _CHINESE_CAPTIONS if chinese else _CAPTIONS
    tags = rng.choice(len(_TAGS), int(rng.integers(1, 4)), replace=False)
    return " ".join([fill(frames[int(rng.integers(len(frames)))], theme, chinese, rng), *(_TAGS[index] for index in tags)])


def fill(frame: str, theme: int, chinese: bool, rng: np.random.Generator) -> str:
    """A frame with words of a theme in its places: {n}, {m} names, {N}, {M} with capitals, {d} a deed."""
    names, deeds = (CHINESE_NAMES, CHINESE_DEEDS) if chinese else (NAMES, DEEDS)
    first, second = (names[theme][index] for index in rng.choice(len(names[theme]), 2, replace=False))
    deed = deeds[theme][int(rng.integers(len(deeds[theme])))]
    return frame.format(n=first, m=second, d=deed, N=_headline(first), M=_headline(second))


def _headline(words: str) -> str:
    """Capitals for a title; `str.title` would write "Ship'S"."""
    return " ".join(word if word in ("of", "the", "on") else word[0].upper() + word[1:] for word in words.split(" "))
