"""An extension of griffe: docstrings as they stand in the code, in the form that mkdocstrings shows well."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):`~?([\w.]+)`")
EXAMPLE = re.compile(r"^(\s*)Example:\s*$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Roles such as :class:`name` become plain names, and an ``Example:`` a section of code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", text)
