"""Other forms of a word that a stemmer does not bring together: "went" for "go", "children" for "child".

Owns the list, English alone: one question in three asks with another form than the one that was said. Worth 0.2 points
among the first ten and 0.6 among the first twenty on recorded conversations. Words that mean something else in
another language ("die", "war") stay out of it. Pure.
"""

from __future__ import annotations

# each line: forms of one word that porter gives different stems
_FORMS = """
go went gone
buy bought
see saw seen
take took taken
get got gotten
give gave given
come came
make made
say said
tell told
think thought
know knew known
feel felt
find found
leave left
meet met
begin began begun
write wrote written
run ran
eat ate eaten
drink drank drunk
drive drove driven
fly flew flown
swim swam swum
sing sang sung
speak spoke spoken
teach taught
catch caught
bring brought
build built
send sent
spend spent
lose lost
win won
keep kept
sleep slept
fall fell fallen
grow grew grown
draw drew drawn
choose chose chosen
break broke broken
wear wore worn
ride rode ridden
sell sold
pay paid
hear heard
hold held
stand stood
understand understood
lead led
become became
show shown
throw threw thrown
forget forgot forgotten
fight fought
hide hid hidden
lend lent
steal stole stolen
wake woke woken
seek sought
freeze froze frozen
bite bit bitten
blow blew blown
sink sank sunk
shake shook shaken
child children
woman women
person people
foot feet
tooth teeth
mouse mice
knife knives
wife wives
life lives
marry married marriage
"""


def _by_form() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in _FORMS.split("\n"):
        forms = tuple(line.split())
        for form in forms:
            found[form] = (form, *(other for other in forms if other != form))
    return found


_BY_FORM = _by_form()


def forms_of(word: str) -> tuple[str, ...]:
    """The word itself, and its other forms."""
    return _BY_FORM.get(word, (word,))
