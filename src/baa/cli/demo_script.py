"""What the demo's model says, and the repository that it works on."""

from __future__ import annotations

from typing import Final

from baa.scripted import Hold, Patch, Run, Say, when

WORD_MS: Final = 25

FILES: Final = {
    "greet.sh": '#!/bin/sh\n# Greets whoever is named.\necho "Hello, $2!"\n',
    "test.sh": (
        '#!/bin/sh\nsaid=$(sh greet.sh World)\nif [ "$said" = "Hello, World!" ]; then echo "ok: $said"; exit 0; fi\n'
        "echo \"FAILED: expected 'Hello, World!', got '$said'\"\nexit 1\n"
    ),
}

MENDED: Final = FILES["greet.sh"].replace("$2", "$1")
CHANGED: Final = ['-echo "Hello, $2!"', '+echo "Hello, $1!"']

PATCH: Final = """\
*** Begin Patch
*** Update File: greet.sh
@@
 # Greets whoever is named.
-echo "Hello, $2!"
+echo "Hello, $1!"
*** End Patch
"""

ASK: Final = "What is in this repository?"
ANSWER: Final = (
    "Two shell scripts. greet.sh says hello to whoever is named on its command line, and test.sh checks that it says"
    " the right thing. They are small, but they do not agree with each other: ask me to mend the test, and I"
    " will run it, look at what it says, change a file and run it again."
)

MEND: Final = "The test fails. Mend it."
TEST: Final = "sh test.sh"
TEST_AGAIN: Final = "sh test.sh && git diff --stat"

COUNT: Final = "Count to 120, one number at a time."
NUMBERS: Final = tuple(f"{number} " for number in range(1, 121))
SEEN_BEFORE: Final = len(NUMBERS) // 3
"""How much of the count the outside reader has seen when codexd is killed."""

DEAD: Final = "codexd is dead"
BACK: Final = "codexd is back"

# The gates only keep the order on a machine that is very slow: some numbers come while codexd is dead, some when it is
# back. On any other machine the count does not stop at them.
_FIRST, _SECOND = SEEN_BEFORE + 5, 100

SCENARIOS: Final = (
    when(ASK, Say(ANSWER, WORD_MS)),
    when(
        MEND,
        (Say("I run the test first.", WORD_MS), Run(TEST)),
        (Say("greet.sh greets its second argument, and the test gives it one. I change that.", WORD_MS), Patch(PATCH)),
        Run(TEST_AGAIN),
        Say("Mended: the test passes, and one line of greet.sh has changed.", WORD_MS),
    ),
    when(
        COUNT,
        (
            Say(NUMBERS[:_FIRST], WORD_MS),
            Hold(DEAD),
            Say(NUMBERS[_FIRST:_SECOND], WORD_MS),
            Hold(BACK),
            Say(NUMBERS[_SECOND:], WORD_MS),
        ),
    ),
)
