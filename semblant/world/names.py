"""First and last names of the named people; each name is one word of the embedded vocabulary.

Every first name goes with every last name: 32 times 16 people.
"""

from __future__ import annotations

FIRST = tuple(
    "maya omar lena hugo ines ravi nora felix aiko diego zara ivan clara kofi elsa marco priya jonas amara leo "
    "tessa yusuf greta pablo hana oscar selma tariq vera milo noor anton".split()
)
LAST = tuple(
    "okafor lindqvist moreau tanaka silva petrov haddad novak rossi mensah kaur jansen osei vargas kim bauer".split()
)


def name_of(index: int) -> str:
    """First and last name of named person `index` in 0..511; no two share both."""
    return f"{FIRST[index % len(FIRST)]} {LAST[index // len(FIRST)]}"


def index_of(name: str) -> int:
    """Which named person has this first and last name. Raises ValueError when nobody has."""
    first, last = name.split()
    return FIRST.index(first) + len(FIRST) * LAST.index(last)
