"""Odd pictures become plain pixels, broken ones are named, and a folder's splits follow from what is in the files."""
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.offline import InputError
from transfer_cvd.photos import (
    BORDERS, MAX_PIXELS, UnreadablePhoto, assign_splits, content_hash, find_photos, place, printable, read_photo,
)

TURNS = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}


def picture(width=64, height=48, seed=0):
    """Smooth blotches of colour, no two sides alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind='JPEG', **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_folder(folder, classes=('cat', 'dog'), n=10):
    """`n` small pictures in each class, each different from all others."""
    for name in classes:
        for i in range(n):
            put(folder / name / f'{i:03}.png', encoded(picture(16, 12, seed=zlib.crc32(name.encode()) + i), 'PNG'))
    return folder


@pytest.mark.parametrize('name, image', [
    ('grey.png', picture().convert('L')), ('grey.jpg', picture().convert('L')), ('black and white.png', picture().convert('1')),
    ('cmyk.jpg', picture().convert('CMYK')), ('cmyk.tif', picture().convert('CMYK')), ('palette.png', picture().quantize(16)),
    ('palette.gif', picture().quantize(16)), ('photo.webp', picture()), ('photo.bmp', picture()), ('photo.tiff', picture()),
    ('ycbcr.tif', picture().convert('YCbCr')), ('dot.png', picture(1, 1)), ('line.png', picture(1, 5000)),
])
def test_modes_and_formats(tmp_path, name, image):
    image.save(tmp_path / name)
    photo = read_photo(tmp_path / name)
    assert photo.dtype == np.uint8 and photo.shape == (image.height, image.width, 3)
    lossy = name.endswith(('.jpg', '.webp'))
    difference = np.abs(photo.astype(int) - np.asarray(image.convert('RGB')).astype(int))
    assert difference.mean() < (6 if lossy else 1)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_sixteen_bits_keep_their_shades(tmp_path, kind):
    shades = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = put(tmp_path / f'shades.{kind.lower()}', encoded(Image.fromarray(shades), kind))
    assert np.array_equal(read_photo(path), np.repeat((shades >> 8)[..., None], 3, axis=2))


def test_transparent_parts_are_white(tmp_path):
    image = picture().convert('RGBA')
    image.paste((10, 20, 30, 0), (0, 0, 20, 20))
    image.save(tmp_path / 'alpha.png')
    photo = read_photo(tmp_path / 'alpha.png')
    assert np.all(photo[:20, :20] == 255)
    assert np.array_equal(photo[20:], np.asarray(picture())[20:])

    colours = Image.new('P', (4, 4), 0)
    colours.putpalette([200, 0, 0, 0, 0, 200])
    colours.putpixel((0, 0), 1)
    colours.save(tmp_path / 'palette.png', transparency=0)
    photo = read_photo(tmp_path / 'palette.png')
    assert photo[0, 0].tolist() == [0, 0, 200] and photo[3, 3].tolist() == [255, 255, 255]


def test_half_transparent_is_mixed_with_white(tmp_path):
    Image.new('LA', (2, 2), (0, 128)).save(tmp_path / 'half.png')
    assert np.all(read_photo(tmp_path / 'half.png') == 127)


@pytest.mark.parametrize('kind', ['png', 'tiff', 'jpg'])
def test_orientation(tmp_path, kind):
    upright = picture()
    for orientation in range(1, 9):
        stored = upright.transpose(Image.Transpose[TURNS[orientation]]) if orientation in TURNS else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f'{orientation}.{kind}'
        stored.save(path, exif=exif)
        difference = np.abs(read_photo(path).astype(int) - np.asarray(upright).astype(int))
        assert difference.max() == 0 if kind != 'jpg' else difference.mean() < 6


@pytest.mark.parametrize('exif', [b'Exif\0\0garbage!', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0'])
@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_damaged_exif_is_no_reason_to_refuse(tmp_path, exif):
    path = put(tmp_path / 'photo.jpg', encoded(picture(), exif=exif))
    assert read_photo(path).shape == (48, 64, 3)


def test_first_frame(tmp_path):
    frames = [picture(seed=i) for i in range(3)]
    for name, kind in (('moving.gif', 'GIF'), ('moving.webp', 'WEBP'), ('pages.tiff', 'TIFF')):
        frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
        assert np.abs(read_photo(tmp_path / name).astype(int) - np.asarray(frames[0]).astype(int)).mean() < 12


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('orientation', [1, 6])
def test_large_jpegs_are_reduced_to_no_less_than_twice_the_size(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / 'large.jpg', encoded(picture(1600, 1200).convert(mode), exif=exif))
    for image_size in (32, 96, 160, 299, 300, 301, 600, 2000):
        shape = read_photo(path, image_size).shape
        assert min(shape[:2]) >= min(1200, 2 * image_size)
        assert min(shape[:2]) < max(4 * image_size, 1200 / 8 + 1)  # an eighth is as small as a JPEG can be decoded
        assert (shape[0] < shape[1]) == (orientation == 1)


def test_truncated_jpeg_at_every_tenth(tmp_path):
    data = encoded(picture(640, 480), quality=90)
    for tenth in range(10):
        path = put(tmp_path / f'{tenth}.jpg', data[:len(data) * tenth // 10])
        for image_size in (None, 1, 160):
            with pytest.raises(UnreadablePhoto) as error:
                read_photo(path, image_size)
            assert error.value.path == path and error.value.reason
            assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['PNG', 'GIF', 'WEBP', 'BMP', 'TIFF'])
def test_other_formats_cut_in_half(tmp_path, kind):
    data = encoded(picture(640, 480), kind)
    with pytest.raises(UnreadablePhoto):
        read_photo(put(tmp_path / f'half.{kind.lower()}', data[:len(data) // 2]))


@pytest.mark.parametrize('content, reason', [(b'', 'empty'), (b'this is no picture', 'no picture'), (b'\xff\xd8\xff\xe0' + bytes(99), '.')])
def test_no_picture(tmp_path, content, reason):
    with pytest.raises(UnreadablePhoto, match=reason):
        read_photo(put(tmp_path / 'text.jpg', content))


def test_no_file(tmp_path):
    with pytest.raises(UnreadablePhoto, match='no such file'):
        read_photo(tmp_path / 'gone.jpg')
    with pytest.raises(UnreadablePhoto, match='is a directory'):
        read_photo(tmp_path)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('side', [20_000, 10_000])
def test_decompression_bomb(tmp_path, side):
    assert side * side > MAX_PIXELS
    header = struct.pack('>4sIIBBBBB', b'IHDR', side, side, 8, 2, 0, 0, 0)
    data = b'IDAT' + zlib.compress(bytes(10_000))
    chunks = [struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in (header, data, b'IEND')]
    path = put(tmp_path / 'bomb.png', b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    with pytest.raises(UnreadablePhoto, match='million pixels'):
        read_photo(path, 160)


def test_many_threads_read_alike(tmp_path):
    paths = [put(tmp_path / f'{i}.jpg', encoded(picture(400, 300, seed=i))) for i in range(8)]
    alone = [read_photo(path, 64) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: read_photo(path, 64), 10 * paths))
    assert all(np.array_equal(together[i], alone[i % 8]) for i in range(80))


def test_tensorflow_is_not_imported():
    code = 'import sys, transfer_cvd.photos; assert "tensorflow" not in sys.modules and "keras" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_folder(tmp_path):
    found = find_photos(make_folder(tmp_path, ('dog', 'bird', 'cat'), n=20))
    assert found.class_names == ['bird', 'cat', 'dog']
    assert found.labels.dtype == np.int64 and np.bincount(found.labels).tolist() == [20, 20, 20]
    assert [Path(path).parent.name for path in found.paths] == [found.class_names[label] for label in found.labels]
    assert set(found.splits) == set(BORDERS) and found.skipped == []
    assert all(n >= 1 for split in found.counts.values() for n in split.values())
    assert sum(n for split in found.counts.values() for n in split.values()) == 60


def test_broken_photos_are_named_and_litter_is_ignored(tmp_path):
    make_folder(tmp_path)
    whole = encoded(picture(640, 480))
    put(tmp_path / 'cat/cut.jpg', whole[:len(whole) // 2])
    put(tmp_path / 'dog/text.jpg', b'this is no picture')
    put(tmp_path / 'dog/note.txt', b'buy milk')
    put(tmp_path / 'dog/deeper/photo.JPG', whole)
    for name in ('.hidden.jpg', 'Thumbs.db', '.DS_Store', '__MACOSX/._000.png'):
        put(tmp_path / 'cat' / name, b'litter')
        put(tmp_path / name, b'litter')
    found = find_photos(tmp_path)
    assert found.class_names == ['cat', 'dog'] and len(found.paths) == 21
    assert str(tmp_path / 'dog/deeper/photo.JPG') in found.paths
    reasons = {Path(path).name: reason for path, reason in found.skipped}
    assert sorted(reasons) == ['cut.jpg', 'note.txt', 'text.jpg']
    assert reasons['cut.jpg'] == 'it is cut short' and 'no picture' in reasons['text.jpg']


def test_too_many_broken_photos(tmp_path):
    make_folder(tmp_path, n=20)
    for i in range(3):
        put(tmp_path / f'cat/broken{i}.jpg', b'this is no picture')
    with pytest.raises(InputError, match='3 of 43 photos .* more than 5%.*broken0.jpg'):
        find_photos(tmp_path)
    assert len(find_photos(tmp_path, max_broken=0.1).skipped) == 3
    for i in range(2):
        (tmp_path / f'cat/broken{i}.jpg').unlink()
    assert len(find_photos(tmp_path).skipped) == 1
    with pytest.raises(InputError, match='1 of 41'):
        find_photos(tmp_path, max_broken=0)


def test_copies_are_in_the_split_of_the_original(tmp_path):
    make_folder(tmp_path, n=30)
    for path in list(tmp_path.rglob('*.png')):
        shutil.copy(path, path.with_name(f'copy of {path.name}'))
    found = find_photos(tmp_path)
    splits = defaultdict(set)
    for path, split in zip(found.paths, found.splits):
        splits[Path(path).read_bytes()].add(split)
    assert len(found.paths) == 120 and len(splits) == 60
    assert all(len(where) == 1 for where in splits.values())


def test_a_photo_of_two_classes_is_left_out(tmp_path):
    make_folder(tmp_path)
    shutil.copy(tmp_path / 'cat/003.png', tmp_path / 'dog/also a dog.png')
    found = find_photos(tmp_path)
    assert len(found.paths) == 19
    assert [(Path(path).name, 'another class' in reason) for path, reason in found.skipped] == [('003.png', True), ('also a dog.png', True)]


def test_added_and_renamed_photos_move_no_others(tmp_path):
    first = find_photos(make_folder(tmp_path, n=100))
    make_folder(tmp_path, n=150)
    (tmp_path / 'cat/000.png').rename(tmp_path / 'cat/zzz.png')
    found = find_photos(tmp_path)
    later = dict(zip(found.paths, found.splits))
    for path, split in zip(first.paths, first.splits):
        assert later[path.replace('cat/000.png', 'cat/zzz.png')] == split


def test_the_seed_decides():
    contents = {seed: [place(content_hash(str(i).encode(), seed)) for i in range(100)] for seed in (0, 1)}
    assert np.abs(np.corrcoef(contents[0], contents[1])[0, 1]) < 0.4


def test_no_split_is_empty():
    for n in [*range(3, 12), 25, 60]:
        for seed in range(200):
            splits = assign_splits({content_hash(str(i).encode(), seed) for i in range(n)})
            assert len(splits) == n and set(splits.values()) == set(BORDERS)


def test_the_photo_nearest_the_border_moves():
    contents = {content_hash(str(i).encode()) for i in range(400)}
    training = sorted((content for content in contents if place(content) < 0.8), key=place)
    splits = assign_splits(set(training))
    assert splits[training[-1]] == 'test' and splits[training[-2]] == 'validation'
    assert set(map(splits.get, training[:-2])) == {'train'}


def test_names_that_are_not_utf8(tmp_path):
    make_folder(tmp_path)
    odd = os.fsencode(tmp_path) + b'/b\xefrd'
    os.mkdir(odd)
    for i in range(5):
        with open(odd + b'/\xff \xf0\x9f\x90\xa6 \'"\n%d.png' % i, 'wb') as file:
            file.write(encoded(picture(16, 12, seed=77 + i), 'PNG'))
    with open(odd + b'/broken\xfe.png', 'wb') as file:
        file.write(b'this is no picture')
    found = find_photos(tmp_path)
    assert found.class_names == ['b\\xefrd', 'cat', 'dog']
    assert all(read_photo(path).shape == (12, 16, 3) for path in found.paths)
    assert found.skipped[0][0].endswith('b\\xefrd/broken\\xfe.png')
    ''.join([*found.class_names, found.skipped[0][0]]).encode('utf-8')
    assert printable(os.fsdecode(b'\xff')) == '\\xff'


def wrong_folders():
    def empty_class(folder): (make_folder(folder) / 'bird').mkdir()
    def only_text(folder): put(make_folder(folder) / 'bird/text.txt', b'no photo')
    def only_broken(folder): put(make_folder(folder) / 'bird/text.jpg', b'no photo')
    def two_photos(folder): make_folder(make_folder(folder), ['bird'], n=2)
    def three_copies(folder): [put(make_folder(folder) / f'bird/{i}.png', encoded(picture(), 'PNG')) for i in range(3)]
    return [
        (lambda folder: folder.rmdir(), 'does not exist'), (lambda folder: (folder.rmdir(), folder.touch()), 'is a file'),
        (lambda folder: None, 'is empty'), (lambda folder: put(folder / 'a.png', encoded(picture(), 'PNG')), 'no sub-folders'),
        (lambda folder: make_folder(folder, ['cat']), 'one class only, cat'), (empty_class, 'class bird .* has no photos'),
        (only_text, 'class bird .* has no photos'), (only_broken, 'class bird .* has 0 .*text.jpg'),
        (two_photos, 'class bird .* has 2 different'), (three_copies, 'class bird .* has 1 different'),
    ]


@pytest.mark.parametrize('make, message', wrong_folders())
def test_wrong_folder(tmp_path, make, message):
    folder = tmp_path / 'photos'
    folder.mkdir()
    make(folder)
    with pytest.raises(InputError, match=message) as error:
        find_photos(folder)
    assert str(folder) in str(error.value) and '\n' not in str(error.value)


@pytest.fixture
def open_folder():
    """A folder of photos that every user may read; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as parent:
        folder = make_folder(Path(parent) / 'photos')
        for path in [folder.parent, folder, *folder.rglob('*')]:
            path.chmod(0o755)
        yield folder


def find_photos_as_another_user(folder):
    """What `find_photos` leaves out, or its error, for a user who has no more permissions than the modes say; root may do anything."""
    code = f'''
import os
from PIL import Image
from transfer_cvd.photos import InputError, find_photos
Image.init()  # while its decoders can be imported
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    print(find_photos({str(folder)!r}).skipped)
except InputError as error:
    print(error)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


@pytest.mark.parametrize('locked', ['.', 'cat'])
def test_folder_without_permission(open_folder, locked):
    (open_folder / locked).chmod(0o000)
    said = find_photos_as_another_user(open_folder)
    (open_folder / locked).chmod(0o755)
    assert said == f'cannot read the folder {open_folder / locked} (Permission denied): make it readable\n'


def test_photo_without_permission(open_folder):
    path = open_folder / 'cat/000.png'
    path.chmod(0o000)
    assert find_photos_as_another_user(open_folder) == f"[({str(path)!r}, 'permission denied')]\n"
