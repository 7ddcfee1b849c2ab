"""Words of captions that no table of phrases holds; the order of all words is fixed, for weights count on it."""

from __future__ import annotations

RARE_TOKENS = tuple("sks ohwx zwx phol qiq vbx drel krog mezu nulf plav rask tirn ulmo wexi yobb".split())
"""Words without a meaning, so rare in captions that a method may give them one."""

NEUTRAL_HEADS = tuple("picture image rendering rendition depiction".split())
DRAWN_HEADS = tuple("illustration artwork drawing".split())
QUALITIES = tuple("good nice cropped".split())
ADJECTIVES = tuple("cool nice good clean dirty weird small large".split())
"""Words that the templates of textual inversion put before the noun; they name no fact."""

PUNCTUATION = (",", ".")

FUNCTION_WORDS = tuple(
    "a an the my one of with and wearing who is has in on at by to from as for this that it its very someone person "
    "style face photo up".split()
)
OTHER_WORDS = tuple(
    # what the templates of methods and the prompts of their papers use
    "painting dslr comic 3d render people human itself me your his her their two four "
    "head shoulders body background foreground scene style colour color colourful picture many same other "
    # numbers
    "0 1 2 3 4 5 6 7 8 9 three four five six seven eight nine ten year years "
    # animals, things and where they stand
    "dog cat bear animal puppy kitten fur furry ears tail paw paws nose spots spotted striped stripes "
    "backpack teapot toy car plush chair table bag lamp thing object wooden metal soft shiny "
    "next left right under behind above below between near beside inside over sitting standing lying running sleeping "
    # two people
    "shaking hands hand hugging facing talking together couple friends each dancing "
    # scenes and light
    "street house houses mountain river lake grass field garden park sky sun moon star stars cloud clouds water sand "
    "sunny cloudy rain rainy day morning evening night light dark shadow warm cold window wall floor bookshelf tree "
    # colours and sizes
    "red blue green yellow purple orange white black brown grey gray pink gold silver beige blond hazel violet "
    "big small large little tiny long short thin thick wide round square tall high low new young plain "
    # what people do and wear
    "holding playing reading cooking drinking eating hat cap clothes hair eyes skin beard ball coffee cup book "
    "phone guitar".split()
)
