"""Small texts with known structure, made by this file."""

from __future__ import annotations

import random

TOPICS = {
    "sea": ["ship", "sailor", "harbour", "wave", "anchor", "storm", "island", "captain"],
    "kitchen": ["bread", "oven", "butter", "flour", "spoon", "recipe", "soup", "kettle"],
    "music": ["violin", "melody", "chorus", "drum", "concert", "singer", "rhythm", "piano"],
}
FILLERS = ["the", "a", "of", "and", "in", "with"]


def topic_sentences(count: int = 1500, seed: int = 0) -> list[list[str]]:
    """Sentences of eight words of one topic with fillers between: words of a topic are alike."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        words = TOPICS[draw.choice(sorted(TOPICS))]
        sentence = []
        for _ in range(8):
            sentence += [draw.choice(FILLERS), draw.choice(words)]
        sentences.append(sentence)
    return sentences


def as_text(sentences: list[list[str]]) -> str:
    """One sentence a line."""
    return "".join(" ".join(sentence) + "\n" for sentence in sentences)


# Nouns that end in a vowel, what is done with them, how and where; endings that such nouns take.
KOREAN_NOUNS = {
    "커피": ("마신다", "따뜻하게", "부엌에서"),
    "고양이": ("기른다", "귀엽게", "마당에서"),
    "피아노": ("연주한다", "즐겁게", "무대에서"),
    "바다": ("건넌다", "천천히", "배로"),
    "나무": ("심는다", "깊숙이", "산에"),
    "기차": ("탄다", "서둘러", "역에서"),
}
KOREAN_ENDINGS = ["는", "가", "를", "와", "도", "만", "부터", "까지", "처럼", "보다"]


def korean_sentences(without: set[str], count: int = 3000, seed: int = 0) -> list[list[str]]:
    """Sentences about nouns in their inflected forms, but for the forms in `without`."""
    draw = random.Random(seed)
    sentences = []
    while len(sentences) < count:
        noun = draw.choice(sorted(KOREAN_NOUNS))
        first, second = (noun + draw.choice(["", *KOREAN_ENDINGS]) for _ in range(2))
        if not without & {first, second}:
            verb, how, where = KOREAN_NOUNS[noun]
            sentences.append([first, where, second, how, verb])
    return sentences
