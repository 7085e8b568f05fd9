"""Docstrings as they are written here, told to griffe: sections of prose, examples of modules, formulas in a row."""

import re
import textwrap

import griffe

SECTION = re.compile(r"^(?P<name>Returns|Raises|References?):\n(?P<text>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
EXCEPTION = re.compile(r"\w+: ")
EXAMPLE = re.compile(r"^(?: {4}(?:>>>|\.\.\.|\S).*\n)+", re.MULTILINE)


class Prose(griffe.Extension):
    """What is returned, `Raises: As in adam.` and references are sentences, not lists and not boxes."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of an object before it is parsed."""
        if obj.docstring:
            text = SECTION.sub(_paragraph, obj.docstring.value + "\n").replace("$$\n$$", "$$\n\n$$")
            obj.docstring.value = EXAMPLE.sub(_block, text) if obj.is_module else text


def _paragraph(found: re.Match[str]) -> str:
    text = textwrap.dedent(found["text"]).strip()
    if found["name"] == "Raises" and EXCEPTION.match(text):
        return found[0]
    return f"**{found['name']}:** {text}\n\n"


def _block(found: re.Match[str]) -> str:
    return f"```pycon\n{textwrap.dedent(found[0])}```\n" if ">>>" in found[0] else found[0]
