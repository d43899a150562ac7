"""The README: short, with links that lead somewhere, and figures that are those of the networks in the package."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope='module')
def text(root) -> str:
    return (root / 'README.md').read_text(encoding='utf-8')


def test_it_has_at_most_130_lines(text):
    assert text.count('\n') <= 130


def test_every_link_within_the_checkout_leads_to_a_file(root, text):
    links = re.findall(r'\]\((?!https?:)([^)#]+)', text)
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_the_table_of_networks_says_what_their_files_say(text):
    from benchmarks.readme import rewritten

    assert rewritten(text) == text, 'run `python -m benchmarks.readme`'


@pytest.mark.parametrize('name', ['main-job', 'tests'])
def test_the_marked_lines_are_there_for_ci(text, name):
    assert re.search(rf'^<!-- line: {name} -->\n```bash\n.+\n```$', text, re.MULTILINE)
