"""Word vectors of a Korean text: FastText, so that inflected and unseen words have vectors, too.

Korean puts particles behind a noun ("고양이가", "고양이는", "고양이를"); vectors made of character
n-grams share what they have in common. The text is made of sentences about animals and vehicles.

    python examples/korean_word_vectors.py
"""

import random

import seqkern

ANIMALS = ["고양이", "강아지", "토끼", "송아지", "병아리"]
VEHICLES = ["자동차", "버스", "택시", "기차", "오토바이"]
ANIMAL_SENTENCES = [
    "{}가 마당에서 풀을 먹고 낮잠을 잔다",
    "귀여운 {}는 사람을 따라 마당을 뛰어다닌다",
    "아이가 {}를 쓰다듬고 먹이를 준다",
]
VEHICLE_SENTENCES = [
    "{}가 도로에서 빠르게 달리다 신호등 앞에 멈춘다",
    "새로 나온 {}는 연료를 적게 쓰고 엔진이 조용하다",
    "운전사가 {}를 몰고 고속도로를 달린다",
]


def sentences(count: int, seed: int = 0) -> list[list[str]]:
    """Sentences as lists of words."""
    draw = random.Random(seed)
    kinds = [(ANIMALS, ANIMAL_SENTENCES), (VEHICLES, VEHICLE_SENTENCES)]
    return [
        draw.choice(patterns).format(draw.choice(nouns)).split()
        for nouns, patterns in draw.choices(kinds, k=count)
    ]


def main() -> tuple[float, float]:
    """Train, and return the similarity of an unseen form to an animal and to a vehicle."""
    model = seqkern.FastText(
        sentences(3000),
        vector_size=50,
        sg=1,
        min_n=1,  # a syllable is a character: n-grams are short
        max_n=3,
        bucket=20_000,
        sample=0,
        epochs=10,
        deterministic=True,
    )
    for word in ("고양이가", "자동차가"):
        near = ", ".join(
            f"{other} {cosine:.2f}" for other, cosine in model.wv.most_similar(word, topn=4)
        )
        print(f"{word}: {near}")

    unseen = "고양이에게"  # "to the cat" is in no sentence
    assert unseen not in model.wv.key_to_index
    animal, vehicle = (model.wv.similarity(unseen, other) for other in ("강아지가", "택시가"))
    print(f"{unseen}: {animal:.2f} to 강아지가, {vehicle:.2f} to 택시가")
    return animal, vehicle


if __name__ == "__main__":
    main()
