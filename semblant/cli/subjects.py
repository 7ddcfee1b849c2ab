"""Who is to be learned: the pictures, words and choices of a command line, one entry for each subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semblant.cli.diagnosis import examine
from semblant.cli.terminal import Terminal
from semblant.errors import SemblantError

if TYPE_CHECKING:
    from semblant.backbones.base import Base
    from semblant.data.subject import Subject


@dataclass(frozen=True)
class Wanted:
    """One subject as it was asked for."""

    word: str
    class_word: str
    pictures: tuple[Path, ...]
    face: str
    consent: str


def wanted(
    pictures: Sequence[Path],
    words: Sequence[str],
    class_words: Sequence[str],
    faces: Sequence[str],
    consents: Sequence[str],
) -> list[Wanted]:
    """One subject of all the pictures for one word; for several words as many, each of one picture or folder.

    What is given once holds for all, what is given as often as there are words for each in order; where there is one
    word, the last counts. Raises SemblantError for numbers that do not go together and words that cannot be,
    FileProblem for a subject without pictures.
    """
    from semblant.data.pictures import find_pictures
    from semblant.data.subject import check_class_word, check_word

    if len(words) == 1:
        made = [Wanted(words[0], class_words[-1], tuple(pictures), faces[-1], consents[-1])]
    else:
        if len(pictures) != len(words):
            raise SemblantError(
                f"{len(words)} words ({', '.join(words)}) for {len(pictures)} PICTURES: "
                "for several subjects give one folder (or picture) and one --word each, in the same order"
            )
        given = {"--class-word": class_words, "--face": faces, "--consent": consents}
        each = [_each(option, values, len(words)) for option, values in given.items()]
        made = [
            Wanted(word, class_word, (path,), face, consent)
            for word, path, class_word, face, consent in zip(words, pictures, *each, strict=True)
        ]
    for one in made:
        check_word(one.word)
        check_class_word(one.class_word)
        for path in one.pictures:
            find_pictures(path)
    return made


def read_subjects(terminal: Terminal, base: Base, given: Sequence[Wanted]) -> list[Subject]:
    """Look at the pictures, warn of what would make a fit worse, and read them as what is learned.

    Raises SemblantError and FileProblem as `Subject.read` does.
    """
    from semblant.bench.faces import finder
    from semblant.cli.vocabulary import warn_of_photographs, warn_of_unknown_words
    from semblant.data.faces import remembering
    from semblant.data.subject import Subject

    detector = remembering(finder(base))
    subjects = []
    for one in given:
        examine(terminal, one.pictures, one.class_word, one.word, one.face, detector, base.size)
        choice: Any = one.face
        subjects.append(
            Subject.read(one.pictures, one.word, one.class_word, face=choice, detector=detector, consent=one.consent)
        )
    warn_of_photographs(terminal, base, [path for one in given for path in one.pictures])
    for class_word in dict.fromkeys(one.class_word for one in given):
        warn_of_unknown_words(terminal, base, class_word)
    return subjects


def introduced(subjects: Sequence[Subject]) -> str:
    """Who they are, such as "<maya> (person) from 1 picture and <rex> (dog) from 3 pictures"."""
    told = [
        f"{one.word} ({one.class_word}) from {len(one.images)} picture{'s' if len(one.images) > 1 else ''}"
        for one in subjects
    ]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def _each(option: str, values: Sequence[str], count: int) -> list[str]:
    if len(values) not in (1, count):
        raise SemblantError(
            f"{option} is given {len(values)} times for {count} subjects; give it once for all, or once for each"
        )
    return list(values) * (count // len(values))
