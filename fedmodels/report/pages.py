"""Self-contained HTML pages: everything escaped, no script, no network, one base and one style for all of them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jinja2

_BASE = "fedmodels.report"
_NONE: Mapping[str, Callable[..., Any]] = MappingProxyType({})


def render_page(
    template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] = _NONE, package: str = _BASE
) -> str:
    """The page that a template in `package`'s folder `templates` makes of the values; it extends `base.html` here.

    A name that the template uses and `values` lacks is an error, never an empty place.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(_BASE)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(values)
