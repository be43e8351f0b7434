"""The specs of examples/, as they are, are those of a real box."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscum.spec import specs_from_paths

EXAMPLES = Path(__file__).parents[2] / "examples"
BOX = "/opt/viscum-examples"  # where their READMEs copy them to
SPECS = sorted(EXAMPLES.glob("*/spec.toml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.parent.name)
def test_a_spec_is_valid_and_names_what_is_there(path: Path) -> None:
    ((_, spec),) = specs_from_paths([str(path)])
    assert spec.name == path.parent.name
    for word in spec.command:
        if word.startswith(BOX):
            example, _, rest = word.removeprefix(f"{BOX}/").partition("/")
            assert example == spec.name
            # a venv is made on the box, by the README's words
            assert rest.startswith("venv/") or (path.parent / rest).exists(), word


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.parent.name)
def test_a_readme_says_how_to_play_it_and_how_to_have_it(path: Path) -> None:
    text = path.with_name("README.md").read_text()
    assert f"make example-{path.parent.name}" in text
    assert "viscum apply spec.toml" in text
    if path.with_name("requirements.txt").exists():
        assert "venv/bin/pip install -r requirements.txt" in text
    listed = (EXAMPLES / "README.md").read_text()
    assert f"({path.parent.name}/README.md)" in listed
