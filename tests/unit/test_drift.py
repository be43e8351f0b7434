"""To which service a step of the plan is charged."""

from __future__ import annotations

import pytest

from viscum.status import mentions


@pytest.mark.req("N13")
def test_a_step_is_charged_to_the_service_it_names() -> None:
    for text in ("start web 1.0", "make viscum-1a.web.1.0", "stop viscum-1a/web/1.0"):
        assert mentions(text, "web")
        assert not any(mentions(text, other) for other in ("we", "web2", "b", "my-web"))
        assert not any(mentions(text.replace("web", other), "web") for other in ("web2", "my-web"))
