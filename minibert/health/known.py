"""What a good model is known to give: published vectors, the order of pairs, words in gaps."""

from __future__ import annotations

from typing import NamedTuple

TEXTS = ("A man is eating food.", "Someone has a meal.", "The sky is blue.")


class Known(NamedTuple):
    """A published model."""

    name: str
    first: tuple[tuple[float, ...], ...]  # the first eight numbers of the vectors of TEXTS
    sts: str  # its score, and of what


# By `digest` of the weights. The numbers are sentence-transformers 6.2's, the scores those of docs/models.md.
KNOWN = {
    "a413631ea4665e1c6fc1aca52d4d1441fec06bf53ebf14643547d7edf0651a28": Known(
        "sentence-transformers/all-MiniLM-L6-v2",
        (
            (0.033242, 0.004406, -0.006277, 0.048379, -0.138702, -0.033617, 0.101128, -0.054385),
            (-0.002787, 0.029145, -0.016872, 0.027389, -0.112796, -0.018583, 0.110711, -0.047741),
            (0.017919, 0.013529, 0.042797, 0.016718, 0.029824, 0.005008, 0.099299, -0.027315),
        ),
        "86.72",
    ),
    "e0f13b59e96c714c66839a9300cc3e07755a18eaf0d0b381f2dd49f7030c4723": Known(
        "minibert-tiny",
        (
            (0.027524, 0.010348, -0.011657, 0.037718, -0.087047, -0.047083, 0.096791, -0.027317),
            (0.000857, 0.036054, -0.013562, 0.041198, -0.141364, -0.019462, 0.133323, -0.044263),
            (0.005881, 0.050654, 0.013445, -0.023415, 0.069316, -0.028135, 0.070028, -0.042948),
        ),
        "85.84",
    ),
}

# Human similarity from 0 to 5. Those that mean the same share hardly a word, and those that do not share most, so a
# model that only sees words has the reverse order: random weights, swapped queries and keys, a shuffled vocabulary.
PAIRS = (
    (5, "A kid is riding a bike.", "One child cycles to school."),
    (5, "The physician cured her patient.", "Doctors healed a sick woman."),
    (5, "He purchased a new automobile.", "My uncle bought this car."),
    (5, "The movie was terribly boring.", "What a dull film!"),
    (5, "It rained heavily all night.", "A storm poured water until dawn."),
    (5, "She is preparing supper.", "My mother cooks dinner."),
    (5, "The company dismissed its employees.", "Many workers got fired by their firm."),
    (5, "Prices of houses went up.", "Real estate is getting more expensive."),
    (3, "A cat is sleeping on a sofa.", "Our kitten rests in the garden."),
    (3, "The train to Paris is late.", "Passengers wait at a station."),
    (3, "The team won the match.", "Fans are watching football."),
    (3, "She teaches mathematics at school.", "Students have an exam in algebra."),
    (3, "He plays the guitar.", "A singer performs with her band."),
    (3, "The soup needs more salt.", "Some cooks add pepper to sauce."),
    (0, "He put the money in the bank.", "He put the flowers in the vase."),
    (0, "The president opened the new bridge.", "The boy opened the new toothpaste."),
    (0, "They saw the bat fly out of the cave.", "They saw the minister walk out of the meeting."),
    (0, "The price of oil fell on Monday.", "The leaf of the tree fell on the lawn."),
    (0, "She broke the record in the race.", "She broke the cup in the kitchen."),
    (0, "A scientist is looking at the stars.", "A butcher is looking at the sausages."),
)

# A sentence with a gap, and words that people put there.
GAPS = (
    ("The capital of France is {}.", "paris"),
    ("In winter it is very {} outside.", "cold"),
    ("She drank a cup of {}.", "tea coffee water milk"),
    ("A week has seven {}.", "days"),
    ("He reads a {} in the library.", "book newspaper"),
    ("The sun rises in the {}.", "east morning sky"),
    ("They {} the door and went in.", "opened closed shut unlocked"),
    ("My brother and my {} live with our parents.", "sister mother wife brother"),
)
