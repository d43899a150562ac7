"""Images of archives and folders, and archives that are refused."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from vmambair_arch.data.prepare import archives
from vmambair_arch.data.prepare.archives import Archive, find_archives
from vmambair_arch.errors import UserError

FILES = {
    'inner/a.png': b'first',
    'inner/deep/b.JPG': b'second',
    'notes.txt': b'no image',
    '.hidden.png': b'no',
    '__MACOSX/inner/a.png': b'no',
}
WANTED = {'name/inner/a.png': b'first', 'name/inner/deep/b.JPG': b'second'}


def write_zip(path, files=FILES):
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in files.items():
            file.writestr(name, data)


def write_tar(path, files=FILES, *, link=None):
    with tarfile.open(path, 'w:gz' if path.name.endswith('gz') else 'w') as file:
        file.addfile(directory := tarfile.TarInfo('./'))
        assert not directory.size
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo('link.png')
            info.type, info.linkname = link, '/etc/passwd'
            file.addfile(info)


def read_all(path):
    with Archive(path) as archive:
        assert archive.members == {name: len(archive.read(name)) for name in archive.members}
        return {name: archive.read(name) for name in archive.members}


def test_archives_and_folders_show_the_same_images(tmp_path):
    write_zip(tmp_path / 'name.zip')
    write_tar(tmp_path / 'name.tar')
    write_tar(tmp_path / 'name.tar.gz')
    for name, data in FILES.items():
        (tmp_path / 'name' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'name' / name).write_bytes(data)
    for path in ('name.zip', 'name.tar', 'name.tar.gz', 'name'):
        assert read_all(tmp_path / path) == WANTED


@pytest.mark.parametrize('name', ['../evil.png', 'a/../../evil.png', '/evil.png', 'C:\\evil.png', '..\\evil.png'])
@pytest.mark.parametrize('write', [write_zip, write_tar])
def test_members_outside_of_the_folder_are_refused(tmp_path, name, write):
    path = tmp_path / ('x.zip' if write is write_zip else 'x.tar')
    write(path, {'good.png': b'1', name: b'2'})
    with pytest.raises(UserError, match=r'x\.(zip|tar): refused, since its member .*evil.* would lie outside'):
        Archive(path)


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path, kind):
    write_tar(tmp_path / 'x.tar', link=kind)
    with pytest.raises(UserError, match="member 'link.png' is a link or device"):
        Archive(tmp_path / 'x.tar')


def test_links_in_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo('link.png')
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
        file.writestr(info, '/etc/passwd')
    with pytest.raises(UserError, match='is a link or device'):
        Archive(tmp_path / 'x.zip')


def test_enormous_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, 'MAX_BYTES', 3)
    write_zip(tmp_path / 'x.zip')
    with pytest.raises(UserError, match=r"'inner/a\.png' has 5 bytes"):
        Archive(tmp_path / 'x.zip')


@pytest.mark.parametrize('name', ['x.zip', 'x.tar', 'x.tar.gz'])
def test_damaged_archives_are_named(tmp_path, name):
    path = tmp_path / name
    (write_zip if name.endswith('zip') else write_tar)(path, {f'{i}.png': bytes(3000) for i in range(20)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf'{name}: damaged or incomplete archive .*download it again'):
        Archive(path)
    path.write_bytes(b'')
    with pytest.raises(UserError, match=rf'{name}: damaged'):
        Archive(path)


def test_a_damaged_member_is_named(tmp_path):
    write_zip(tmp_path / 'x.zip')
    data = bytearray((tmp_path / 'x.zip').read_bytes())
    data[data.index(b'first')] ^= 1
    (tmp_path / 'x.zip').write_bytes(data)
    with Archive(tmp_path / 'x.zip') as archive, pytest.raises(UserError, match=r'x/inner/a\.png cannot be read .*CRC'):
        archive.read('x/inner/a.png')


def test_archives_are_found_by_name_whatever_their_suffix_or_case(tmp_path):
    for name in ('div2k_train_HR.zip', 'Other.zip', 'DIV2K_train_HR_x.txt', 'Flickr2K.tar.gz'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'Flickr2K').mkdir()
    found = find_archives(tmp_path, ('DIV2K_train_HR', 'Flickr2K*'))
    assert [path.name for path in found] == ['Flickr2K', 'Flickr2K.tar.gz', 'div2k_train_HR.zip']
    with pytest.raises(UserError, match='nowhere: no such folder'):
        find_archives(tmp_path / 'nowhere', ('x',))


def test_rar_has_to_be_unpacked_first(tmp_path):
    (tmp_path / 'OST.rar').write_bytes(b'')
    with pytest.raises(UserError, match=r'OST\.rar: \.rar archives are not read; unpack it to .*OST'):
        find_archives(tmp_path, ('OST*',))
    (tmp_path / 'OST').mkdir()
    assert find_archives(tmp_path, ('OST*',)) == [tmp_path / 'OST']
