"""Links between pages, and to files and headings, lead somewhere."""

import re

import pytest

from tests.docs import PAGES


def anchor(heading):
    """As GitHub makes it: lower case, spaces to hyphens, punctuation gone."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert fragment in [anchor(heading) for heading in headings], target


def test_every_page_of_the_documentation_is_linked_from_the_readme():
    readme = PAGES[0].read_text()
    for page in PAGES[3:]:
        assert f"docs/{page.name}" in readme, page.name
