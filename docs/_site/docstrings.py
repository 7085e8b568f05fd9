"""Docstrings as they are written here, told to griffe: sections of prose are paragraphs that begin with their name."""

import re
import textwrap

import griffe

SECTION = re.compile(r"^(?P<name>Raises|References?):\n(?P<text>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
ENTRY = re.compile(r"\w+: ")


class Prose(griffe.Extension):
    """`Raises: As in adam.` and references are sentences, not lists of exceptions and not boxes."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of an object before it is parsed."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(_paragraph, obj.docstring.value + "\n")


def _paragraph(match: re.Match) -> str:
    text = textwrap.dedent(match["text"])
    if match["name"] == "Raises" and ENTRY.match(text):
        return match[0]
    return f"**{match['name']}:** {text.strip()}\n\n"
