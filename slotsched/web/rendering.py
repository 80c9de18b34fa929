"""Templates to pages. Everything that a template prints is made plain text first, then escaped.

So a control sequence, an override of the reading direction or a tag in a name, a message or a log reaches a browser
as text or not at all, also where a template's author forgot to think of it.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from slotsched import __version__
from slotsched.loglines import local_time, plain
from slotsched.model.job import storable_text
from slotsched.store.tasks import COUNT_CAP
from slotsched.views.text import short
from slotsched.web.access import Access, Caller
from slotsched.web.calls import FORM_KEY
from slotsched.web.problems import Problem


class Renderer:
    """Makes pages. access: for the key that every form of a caller carries."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._templates = Environment(
            loader=PackageLoader("slotsched.web"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_harmless,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"short": short, "clock": clock}
        self._templates.globals |= {"version": __version__, "counted": _counted}

    def page(self, template: str, caller: Caller | None, *, status: int = 200, **values: Any) -> Response:
        """A page for a caller; None: for somebody who has not signed in."""
        key = "" if caller is None else self._access.form_key(caller)
        form_key = Markup('<input type="hidden" name="{}" value="{}">').format(FORM_KEY, key)
        shown = {"title": "", "refresh": None, "caller": caller, "form_key": form_key, **values}
        return HTMLResponse(self._templates.get_template(template).render(shown), status)

    def problem(self, problem: Problem, caller: Caller | None) -> Response:
        """A page that says what is wrong."""
        answer = self.page("problem.html", caller, status=problem.status_code, detail=problem.detail)
        answer.headers.update(problem.headers or {})
        return answer


def _harmless(value: Any) -> Any:
    """Markup is what our own templates made; anything else comes from outside."""
    if isinstance(value, Markup):
        return value
    text = plain(str(value))
    return text if text.isascii() else storable_text(text)  # half a surrogate pair is no character


def _counted(count: int) -> str:
    """`10,000+` where counting stopped."""
    return f"{count:,}+" if count >= COUNT_CAP else f"{count:,}"


def clock(milliseconds: float | None) -> str:
    """`03:15:00.042` in this machine's zone; nothing for a time that is none."""
    at = local_time(milliseconds)
    return "" if at is None else f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
