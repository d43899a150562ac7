"""What writes a list of images and what reads it agree on every name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realesrgan_pipeline.name_list import Listed, parse_line, read_names

LETTERS = st.characters(blacklist_categories=('Cs', 'Cc', 'Zl', 'Zp'), blacklist_characters='/\0')
STEMS = st.text(LETTERS, min_size=1, max_size=20).map(str.strip).filter(lambda stem: stem and stem[-1] != '.')
NAMES = st.builds(lambda stem, suffix: f'{stem}{suffix}', STEMS, st.sampled_from(['.png', '.JPG', '.webp']))
SHAPES = st.tuples(st.integers(1, 9999), st.integers(1, 9999), st.sampled_from([1, 3]))


@given(name=NAMES, shape=SHAPES, level=st.integers(0, 9))
def test_a_line_as_basicsr_writes_it_is_read_back(name: str, shape: tuple[int, int, int], level: int) -> None:
    written = f'{name} ({shape[0]},{shape[1]},{shape[2]})'
    assert parse_line(f'{written} {level}') == Listed(name, shape)
    assert parse_line(written) == Listed(name, shape)
    assert parse_line(name) == Listed(name)


@pytest.mark.parametrize('name', ['photo (1).png', 'photo (1) (2,3).png', 'a b.png', 'a.b.c.png', 'sub/photo (1).png'])
def test_names_with_brackets_and_dots_are_whole(name: str) -> None:
    listed = parse_line(f'{name} (120,125,3) 1')
    assert listed == Listed(name, (120, 125, 3))
    assert listed.key == name.removesuffix('.png')


@pytest.mark.parametrize('content', ['a.png\nb.png\n', '\ufeffa.png\r\nb.png\r\n', 'b.png (1,2,3) 1\na.png\n\n'])
def test_marks_and_line_ends_of_windows_are_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / 'list.txt').write_bytes(content.encode())
    assert [entry.name for entry in read_names(tmp_path / 'list.txt')] == ['a.png', 'b.png']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('a.png\na.png (1,2,3)\n', "names 'a.png' twice"),
        ('a.png\n\nb.png\n', 'line 2 is empty'),
        ('', 'names no images'),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / 'list.txt').write_text(content)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / 'list.txt')
