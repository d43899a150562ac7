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


def test_every_link_of_the_documentation_leads_to_a_file(root):
    """In a checkout as well as on the site, where some pages are made from files elsewhere in the project."""
    lost = []
    for page in sorted((root / 'docs').glob('*.md')):
        text = page.read_text(encoding='utf-8')
        links = re.findall(r'\]\((?!https?:|#)([^)#\s]+)', text)
        lost += [f'{page.name}: {link}' for link in links if not (page.parent / link).exists()]
    assert lost == []


def test_every_picture_of_the_documentation_is_shown(root):
    pages = [*(root / 'docs').glob('*.md'), *(root / 'docs').glob('*.ipynb'), root / 'README.md']
    shown = ''.join(page.read_text(encoding='utf-8') for page in pages)
    pictures = [path.name for path in (root / 'docs').iterdir() if path.suffix in ('.png', '.jpg', '.webp')]
    assert pictures
    assert [name for name in pictures if name not in shown] == []


def test_every_option_file_has_its_row(root):
    page = (root / 'docs' / 'train.md').read_text(encoding='utf-8')
    rows = ''.join(line for line in page.splitlines() if line.startswith('|'))
    named = set(re.findall(r'`(\w+\.yml)`', rows))
    assert named == {path.name for path in (root / 'options').glob('*.yml')}


def test_the_table_of_networks_says_what_their_files_say(text):
    from benchmarks.readme import rewritten

    assert rewritten(text) == text, 'run `python -m benchmarks.readme`'


@pytest.mark.parametrize('name', ['main-job', 'tests'])
def test_the_marked_lines_are_there_for_ci(text, name):
    assert re.search(rf'^<!-- line: {name} -->\n```bash\n.+\n```$', text, re.MULTILINE)
