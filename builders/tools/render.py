"""Texts from templates, by jinja2: a name that has no value is an error, never an empty place."""

from __future__ import annotations

import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.exceptions import TemplateError

from builders.errors import FactsError


def render(template: Path, **values: object) -> str:
    """The text of a template file. Nothing is escaped: it is for no browser; `value | shell` is one
    word to a shell."""
    environment = Environment(  # noqa: S701 -- no HTML
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    try:
        return environment.get_template(template.name).render(**values)
    except TemplateError as error:
        raise FactsError(
            f"cannot be rendered: {error}",
            place=str(template),
            next_step="mend what was edited there, or take the file as it was released",
        ) from error
