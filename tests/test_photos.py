"""Odd pictures become plain pixels, broken ones are named, and a folder's splits follow from what is in the files."""
import io
import itertools
import json
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

from transfer_cvd._files import printable
from transfer_cvd.errors import InputError
from transfer_cvd.photos import scan
from transfer_cvd.photos.find import find_photos
from transfer_cvd.photos.images import MAX_PIXELS, UnreadablePhoto, decode_photo, read_photo, shrink
from transfer_cvd.photos.preprocess import format_example, format_photo, formatting_layers
from transfer_cvd.photos.scan import default_memory, hash_ends, recall
from transfer_cvd.photos.splits import BORDERS, PhotoFolder, assign_splits, split_fraction

TURNS = {
    2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE',
    8: 'ROTATE_270',
}


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


@pytest.fixture(autouse=True)
def memory(tmp_path_factory, monkeypatch):
    """The folder where what was read is remembered, empty at first."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder / 'transfer_cvd'


@pytest.fixture
def read(monkeypatch):
    """The files that were read, as a list that grows."""
    names, read_bytes = [], scan.read_bytes
    monkeypatch.setattr(scan, 'read_bytes', lambda path: names.append(Path(path).name) or read_bytes(path))
    return names


@pytest.mark.parametrize('name, image', [
    ('grey.png', picture().convert('L')), ('grey.jpg', picture().convert('L')),
    ('black and white.png', picture().convert('1')), ('cmyk.jpg', picture().convert('CMYK')),
    ('cmyk.tif', picture().convert('CMYK')), ('palette.png', picture().quantize(16)),
    ('palette.gif', picture().quantize(16)), ('photo.webp', picture()), ('photo.bmp', picture()),
    ('photo.tiff', picture()), ('ycbcr.tif', picture().convert('YCbCr')), ('dot.png', picture(1, 1)),
    ('line.png', picture(1, 5000)),
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


def test_all_formats_are_reduced_alike(tmp_path):
    large = picture(1600, 1200)
    kinds = {'JPEG': {'quality': 95}, 'PNG': {'compress_level': 1}, 'WEBP': {'quality': 90}, 'BMP': {}, 'TIFF': {}}
    for kind, options in kinds.items():
        path = put(tmp_path / f'large.{kind.lower()}', encoded(large, kind, **options))
        for image_size, expected in ((32, (150, 200)), (160, (600, 800)), (600, (1200, 1600))):
            photo = read_photo(path, image_size)
            # 64 to 127 pixels are left of the shorter side, except of a JPEG, where an eighth is reduced once more
            assert photo.shape[:2] == (expected if image_size != 32 else (75, 100))
            reference = np.asarray(large.resize(photo.shape[1::-1], Image.Resampling.BOX)).astype(int)
            assert np.abs(photo - reference).mean() < 3


def test_cmyk_with_a_profile_that_does_not_fit(tmp_path):
    from PIL import ImageCms

    expected = read_photo(put(tmp_path / 'plain.jpg', encoded(picture().convert('CMYK'))))
    for profile in (b'no profile', ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()):
        path = put(tmp_path / 'profile.jpg', encoded(picture().convert('CMYK'), icc_profile=profile))
        assert np.array_equal(read_photo(path), expected)


def cmyk_profile():
    """A colour profile (ICC.1:2001-04, 6.5.10) of four grey inks: black gives black, each of the others half of it."""
    inks = itertools.product((0, 1), repeat=4)
    nodes = [bytes([0 if k else 128 if c + m + y else 255, 128, 128]) for c, m, y, k in inks]
    identity = struct.pack('>9i', *(65536 if i % 4 == 0 else 0 for i in range(9)))
    curve = bytes(range(256))
    table = b'mft1' + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * curve + b''.join(nodes) + 3 * curve
    white = struct.pack('>3i', 63190, 65536, 54061)
    header = struct.pack('>I4sI4s4s4s12s4s28s12s', 144 + len(table), bytes(4), 0x02400000, b'prtr', b'CMYK', b'Lab ',
                         bytes(12), b'acsp', bytes(28), white)
    return header.ljust(128, b'\0') + struct.pack('>I4sII', 1, b'A2B0', 144, len(table)) + table


@pytest.mark.parametrize('kind', ['JPEG', 'TIFF'])
def test_cmyk_with_a_profile(tmp_path, kind):
    cyan = Image.new('CMYK', (16, 16), (255, 0, 0, 0))
    plain = read_photo(put(tmp_path / 'plain', encoded(cyan, kind)))
    by_profile = read_photo(put(tmp_path / 'profile', encoded(cyan, kind, icc_profile=cmyk_profile())))
    assert np.abs(plain.astype(int) - (0, 255, 255)).max() <= 3
    assert np.ptp(by_profile) <= 3 and 110 < by_profile.mean() < 130  # grey, half as light


def test_several_pictures_in_one_jpeg(tmp_path):
    picture().save(tmp_path / 'burst.mpo', save_all=True, append_images=[picture(seed=1)])
    assert np.abs(read_photo(tmp_path / 'burst.mpo').astype(int) - np.asarray(picture())).mean() < 6


def test_heic_and_avif(tmp_path):
    pytest.importorskip('pillow_heif').register_heif_opener()
    for kind in ('HEIF', 'AVIF'):
        path = put(tmp_path / f'photo.{kind.lower()}', encoded(picture(), kind, quality=90))
        assert np.abs(read_photo(path).astype(int) - np.asarray(picture())).mean() < 8
        data = path.read_bytes()
        for tenth in range(10):
            with pytest.raises(UnreadablePhoto):
                read_photo(put(path, data[:len(data) * tenth // 10]))


def test_heic_without_the_extra(tmp_path):
    put(tmp_path / 'photo.jpg', b'\0\0\0\x18ftypheic' + bytes(99))  # phones do give them that name
    code = f'''
import sys
sys.modules["pillow_heif"] = None
from transfer_cvd.photos.images import UnreadablePhoto, read_photo
try:
    read_photo({str(tmp_path / "photo.jpg")!r})
except UnreadablePhoto as error:
    print(error.reason, end='')
'''
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("it is in the format HEIC, which needs pip install 'transfer_cvd[heif]'", '')


def verdict(data, **options):
    """Why a photo cannot be decoded, or 'sound'."""
    try:
        decode_photo(data, 'photo.jpg', **options)
    except UnreadablePhoto as error:
        return error.reason
    return 'sound'


@pytest.mark.parametrize('options', [
    {}, {'progressive': True}, {'restart_marker_blocks': 4}, {'subsampling': 0, 'optimize': True},
])
@pytest.mark.filterwarnings('ignore')
def test_decoding_an_eighth_finds_what_decoding_all_finds(options):
    rng, whole = np.random.default_rng(0), encoded(picture(320, 240), quality=90, **options)
    verdicts = []
    for _ in range(150):
        damaged = bytearray(whole)
        anywhere = rng.random() < 0.5
        for index in rng.integers(2, len(whole), rng.integers(1, 4)) if anywhere else rng.integers(2, 700, 1):
            damaged[index] = rng.choice([0, 0xFF, 0xD9, 0xC4, rng.integers(256)])
        data = bytes(damaged[:rng.integers(len(whole))] if rng.random() < 0.2 else damaged)
        verdicts.append((verdict(data, smallest=True), verdict(data)))
    assert all((eighth == 'sound') == (thorough == 'sound') for eighth, thorough in verdicts)
    assert 20 < sum(eighth == 'sound' for eighth, _ in verdicts) < 140


def test_pipes_and_films_are_not_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    os.truncate(put(tmp_path / 'film.jpg', b''), 2 * 1024**3)
    with pytest.raises(UnreadablePhoto, match='pipe'):
        read_photo(tmp_path / 'pipe.jpg')
    with pytest.raises(UnreadablePhoto, match='gigabyte'):
        read_photo(tmp_path / 'film.jpg')


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


@pytest.mark.parametrize('content, reason', [
    (b'', 'empty'), (b'this is no picture', 'no picture'), (b'\xff\xd8\xff\xe0' + bytes(99), '.'),
])
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
    chunks = [struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
              for chunk in (header, data, b'IEND')]
    path = put(tmp_path / 'bomb.png', b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    with pytest.raises(UnreadablePhoto, match='million pixels'):
        read_photo(path, 160)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_jpeg_that_claims_to_be_huge_is_not_sound(tmp_path):
    data = encoded(picture())
    frame = data.index(b'\xff\xc0')
    path = put(tmp_path / 'bomb.jpg', data[:frame + 5] + 2 * (20_000).to_bytes(2) + data[frame + 9:])
    with pytest.raises(UnreadablePhoto, match='million pixels'):
        read_photo(path, 160)
    assert 'million pixels' in scan.examine(str(path)).reason


def test_many_threads_read_alike(tmp_path):
    paths = [put(tmp_path / f'{i}.jpg', encoded(picture(400, 300, seed=i))) for i in range(8)]
    alone = [read_photo(path, 64) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: read_photo(path, 64), 10 * paths))
    assert all(np.array_equal(together[i], alone[i % 8]) for i in range(80))


def test_tensorflow_is_not_imported():
    code = '''
import sys
from transfer_cvd.photos import find, folders, images, near_duplicates, preprocess, scan, splits, tables
assert not {"tensorflow", "keras"} & set(sys.modules)
'''
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('image_size', [32, 96, 160, 161])
def test_all_libraries_format_alike(image_size):
    import keras

    photos = keras.Input((None, None, 3), dtype='uint8')
    formatting = keras.Model(photos, formatting_layers(photos, image_size))
    assert formatting.output.dtype == 'float32'
    rng = np.random.default_rng(image_size)
    for height, width in ((1, 1), (2, 500), (image_size, image_size), (375, 500), (640, 333), (1001, 7), (643, 1299)):
        photo = rng.integers(0, 256, (height, width, 3), np.uint8)
        read = np.asarray(shrink(Image.fromarray(photo), 2 * image_size))
        by_numpy = format_photo(read, image_size)
        assert by_numpy.shape == (image_size, image_size, 3) and by_numpy.dtype == np.float32
        assert np.array_equal(by_numpy, format_example(read, 0, image_size)[0].numpy())
        assert np.abs(formatting(photo[None])[0].numpy() - by_numpy).max() < 1e-5


def test_format_example_can_be_mapped_over_a_data_set():
    import tensorflow as tf

    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    mapped = tf.data.Dataset.from_tensors((photo, 1)).map(format_example)
    image, label = next(mapped.as_numpy_iterator())
    assert np.array_equal(image, format_photo(photo, 160)) and label == 1


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
    assert [Path(path).name for path, _ in found.skipped] == ['003.png', 'also a dog.png']
    assert all('another class' in reason for _, reason in found.skipped)


def test_added_and_renamed_photos_move_no_others(tmp_path):
    first = find_photos(make_folder(tmp_path, n=100))
    make_folder(tmp_path, n=150)
    (tmp_path / 'cat/000.png').rename(tmp_path / 'cat/zzz.png')
    found = find_photos(tmp_path)
    later = dict(zip(found.paths, found.splits))
    for path, split in zip(first.paths, first.splits):
        assert later[path.replace('cat/000.png', 'cat/zzz.png')] == split


def test_given_splits_are_kept(tmp_path):
    for split, n in (('Train', 40), ('val', 5), ('valid', 5), ('test', 6)):
        make_folder(tmp_path / split, [f'{split}/cat', f'{split}/dog'], n)
        for name in ('cat', 'dog'):
            (tmp_path / split / split / name).rename(tmp_path / split / name)
        (tmp_path / split / split).rmdir()
    found = find_photos(tmp_path)
    cats = {split: counts['cat'] for split, counts in found.counts.items()}
    assert cats == {'train': 40, 'validation': 10, 'test': 6}
    assert set(found.origin) == {'given'} and found.class_names == ['cat', 'dog']


@pytest.mark.parametrize('given', [[], ['validation'], ['test']])
def test_a_missing_split_comes_from_train(tmp_path, given):
    make_folder(tmp_path / 'train', n=60)
    for split in given:
        make_folder(tmp_path / split, ['cat'], n=100)
        for i in range(60):
            (tmp_path / split / f'cat/{i:03}.png').unlink()
        make_folder(tmp_path / split, ['dog'], n=3)
    found = find_photos(tmp_path)
    where = {split: {Path(found.paths[i]).parent.parent.name for i in found.indices(split)} for split in BORDERS}
    assert where == {split: {split if split in given else 'train'} for split in BORDERS}
    assert set(found.origin) == ({'given', 'content'} if given else {'content'})
    assert bool(given) == any('6 photos have copies in another' in line for line in found.warnings)
    assert 6 < sum(found.counts['validation' if 'validation' not in given else 'test'].values()) < 25


def test_test_photos_without_classes_are_left_out(tmp_path):
    make_folder(tmp_path / 'train')
    put(tmp_path / 'test/1.png', encoded(picture(), 'PNG'))
    put(tmp_path / 'readme.txt', b'all my pets')
    found = find_photos(tmp_path)
    assert found.class_names == ['cat', 'dog'] and all(sum(counts.values()) for counts in found.counts.values())
    reasons = [(Path(path).name, reason) for path, reason in found.skipped]
    assert reasons == [('readme.txt', 'it lies in no class'), ('1.png', 'it lies in no class')]


def test_a_class_missing_from_a_given_split(tmp_path):
    tmp_path = tmp_path / 'photos'
    make_folder(tmp_path / 'train', n=20)
    make_folder(tmp_path / 'test', ['cat'], n=20)
    shutil.move(tmp_path / 'train/cat', tmp_path.parent / 'spare')
    with pytest.raises(InputError, match='the class cat in .* has no photos in train'):
        find_photos(tmp_path)
    shutil.rmtree(tmp_path / 'test')
    shutil.move(tmp_path.parent / 'spare', tmp_path / 'train/cat')
    make_folder(tmp_path / 'test', ['bird'], n=20)
    make_folder(tmp_path / 'train', ['bird'], n=5)
    assert [line for line in find_photos(tmp_path).warnings if 'cat' in line and 'no photos in test' in line]


def test_table(tmp_path):
    make_folder(tmp_path / 'photos', ['a', 'b'], n=15)
    names = [f'photos/{name}/{i:03}.png' for name in 'ab' for i in range(15)]
    (tmp_path / 'photos/a/000.png').rename(tmp_path / 'photos/a/no suffix, "quoted"')
    lines = ['label, path', '1,"photos/a/no suffix, ""quoted"""']
    lines += [f'{int("/b/" in name)}, {name}' for name in names[1:]] + ['0,gone.png']
    (tmp_path / 'photos.csv').write_text('\n'.join(lines), encoding='utf-8-sig')
    found = find_photos(tmp_path / 'photos.csv')
    assert found.class_names == ['0', '1'] and found.labels.tolist() == [1] + 14 * [0] + 15 * [1]
    assert found.skipped == [(str(tmp_path / 'gone.png'), 'no such file or directory')]
    assert found.paths[0].endswith('no suffix, "quoted"')
    assert found.splits == find_photos(tmp_path / 'photos.csv').splits
    lines = [f'{name},{name[7]},{"test" if "2" in name else ""}\n' for name in names[1:]]
    (tmp_path / 'photos.csv').write_text('path,label,split\n' + ''.join(lines))
    found = find_photos(tmp_path / 'photos.csv')
    assert all((origin == 'given') == ('2' in Path(path).name) for path, origin in zip(found.paths, found.origin))


def make_table(folder, split_of, n=60):
    """A table of `n` photos of a and of b each, with the splits that `split_of` gives for their numbers."""
    make_folder(folder, ['a', 'b'], n=n)
    rows = [f'{name}/{i:03}.png,{name},{split_of(i)}\n' for name in 'ab' for i in range(n)]
    (folder / 'photos.csv').write_text('path,label,split\n' + ''.join(rows))
    return folder / 'photos.csv'


@pytest.mark.parametrize('given', ['test', 'validation', 'train', ''])
@pytest.mark.parametrize('blank', [{3}, {3, 13, 14}, set(range(60))])
def test_rows_without_a_split_are_training_rows(tmp_path, given, blank):
    def whole(i):
        return given if i % 5 == 0 else 'train'

    expected = find_photos(make_table(tmp_path, whole))
    found = find_photos(make_table(tmp_path, lambda i: '' if i in blank and i % 5 else whole(i)))
    assert found.splits == expected.splits and set(found.splits) == set(BORDERS)
    assert not any('copies' in line for line in found.warnings)
    if given in ('test', 'validation'):
        assert [i % 60 for i, split in enumerate(found.splits) if split == given] == 2 * list(range(0, 60, 5))


def test_rows_without_a_split_train_where_nothing_is_missing(tmp_path):
    splits = {0: 'test', 1: 'validation', 2: ''}
    found = find_photos(make_table(tmp_path, lambda i: splits.get(i % 5, 'train')))
    assert found.splits == 2 * [splits.get(i % 5) or 'train' for i in range(60)]
    assert {split for split, why in zip(found.splits, found.origin) if why == 'content'} == {'train'}


def test_a_copy_without_a_split_of_a_test_photo_is_told(tmp_path):
    table = make_table(tmp_path, lambda i: 'test' if i < 20 else '' if i == 20 else 'train')
    shutil.copy(tmp_path / 'a/000.png', tmp_path / 'a/020.png')
    assert any('2 photos have copies in another of the given splits' in line for line in find_photos(table).warnings)


@pytest.mark.parametrize('missing', ['validation', 'test'])
def test_a_split_that_cannot_be_made_is_an_error(tmp_path, missing):
    other = {'validation': 'test', 'test': 'validation'}[missing]
    message = f'photos.csv has no photos in {missing}, and no class has more than one in train'
    for seed in range(5):
        with pytest.raises(InputError, match=message) as error:
            find_photos(make_table(tmp_path, lambda i: other if i else 'train', n=4), seed)
        assert '\n' not in str(error.value)
    found = find_photos(make_table(tmp_path, lambda i: other if i > 1 else '', n=4))
    assert [len(found.indices(split)) for split in ('train', missing, other)] == [2, 2, 4]


@pytest.mark.parametrize('content, message', [
    ('path,label\nhäuser.png,a\n'.encode('latin-1'), 'not in the encoding UTF-8'),
    ('path,label\na.png,a\n'.encode('utf-16'), 'in the encoding UTF-16'),
    (b'a.png,a\nb.png,b\n', "no header .*'a.png,a'"),
    (b'', 'no header'),
    (b'path,label\n', 'no photos'),
    (b'path,label\na.png\n', 'line 2 of .* no label'),
    (b'path,label\na.png,a\n\n,b\n', 'no path'),
    (b'path,label\na.png,a\n', 'one class only, a'),
    (b'path,label,split\na.png,a,tset\n', "'tset': write train"),
    (b'path,label\na.png,a\nb.png,b\n', '2 photos in .* cannot be read|0 different'),
    (b'path,label\n"' + bytes(9) + b'.png,a\n', 'no label|null'),
    (b'path,label\n"' + b'x' * 200_000 + b'",a\n', 'cannot be read as a table'),
    (b'path,label\na\0.png,a\nb.png,b\nc.png,b\n', '3 of 3'),
])
def test_wrong_table(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        find_photos(put(tmp_path / 'photos.csv', content))
    assert '\n' not in str(error.value) and 'photos.csv' in str(error.value)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='photos.csv .No such file'):
        find_photos(tmp_path / 'photos.csv')


def test_links(tmp_path):
    make_folder(tmp_path / 'photos')
    (tmp_path / 'photos/cat/round').symlink_to(tmp_path / 'photos')
    (tmp_path / 'photos/cat/to dogs.jpg').symlink_to(tmp_path / 'photos/dog')
    (tmp_path / 'photos/cat/gone.jpg').symlink_to(tmp_path / 'gone.jpg')
    (tmp_path / 'photos/itself').symlink_to('itself')
    found = find_photos(tmp_path / 'photos')
    assert found.class_names == ['cat', 'dog'] and len(found.paths) == 20
    assert {Path(path).name: reason for path, reason in found.skipped} == {
        'round': 'links to folders are not followed', 'to dogs.jpg': 'links to folders are not followed',
        'gone.jpg': 'no such file or directory', 'itself': 'it lies in no class'}


def test_three_hundred_classes(tmp_path):
    make_folder(tmp_path, [f'{i:03}' for i in range(300)], n=3)
    found = find_photos(tmp_path)
    assert len(found.class_names) == 300 and all(set(counts.values()) == {1} for counts in found.counts.values())


def test_counts_are_taken_once_for_all_classes(tmp_path, monkeypatch):
    counted, counts = [], PhotoFolder.counts.fget
    monkeypatch.setattr(PhotoFolder, 'counts', property(lambda found: counted.append(found) or counts(found)))
    assert len(find_photos(make_folder(tmp_path, [f'{i:03}' for i in range(50)], n=3)).warnings) == 50
    assert len(counted) < 10


def test_warnings(tmp_path):
    make_folder(tmp_path, ['Cat', 'cat', 'dog', 'test'], n=12)
    make_folder(tmp_path, ['bird'], n=9)
    shutil.copy(tmp_path / 'cat/000.png', tmp_path / 'dog/also a dog.png')
    found = find_photos(tmp_path)
    beginnings = [line.split(':')[0] for line in found.warnings[:2]]
    assert beginnings == ['test is taken for a class', 'the classes Cat and cat differ by case only']
    assert found.warnings[2].startswith('2 photos are in two classes and are left out')
    tests = found.counts['test']['bird']
    assert len(found.warnings) == 4
    assert found.warnings[3].startswith(f'the class bird has 9 photos, {tests} of them in test')
    assert f'interval from {tests / (tests + 1.96**2):.0%}' in found.warnings[3]


def test_a_second_run_reads_nothing(tmp_path, read):
    make_folder(tmp_path)
    put(tmp_path / 'cat/text.jpg', b'no photo')
    first = find_photos(tmp_path)
    assert sorted(read) == sorted([path.name for path in tmp_path.rglob('*.*')])
    read.clear()
    second = find_photos(tmp_path)
    other_seed = find_photos(tmp_path, seed=1)
    assert read == [] and second.skipped == first.skipped and second.splits == first.splits != other_seed.splits
    put(tmp_path / 'cat/text.jpg', encoded(picture()))
    os.utime(tmp_path / 'dog/000.png', (1, 1))
    put(tmp_path / 'dog/new.jpg', encoded(picture(seed=5)))
    assert len(find_photos(tmp_path).paths) == 22 and sorted(read) == ['000.png', 'new.jpg', 'text.jpg']


def test_other_decoders_look_again(tmp_path, read, monkeypatch):
    find_photos(make_folder(tmp_path))
    read.clear()
    monkeypatch.setattr(scan, 'heif_reader', lambda: 'another')
    find_photos(tmp_path)
    assert len(read) == 20


def with_facts(whole, facts):
    """A memory where something else is remembered of one more file."""
    seal, text = whole.split(b'\n')
    return seal + b'\n' + json.dumps(json.loads(text) | {'a': facts}).encode()


@pytest.mark.parametrize('damage', [
    lambda whole: whole[:-9],
    lambda whole: whole[9:],
    lambda whole: whole.partition(b'\n')[0],
    lambda whole: whole.partition(b'\n')[2],
    lambda whole: b'',
    lambda whole: b'\xff\xfe',
    lambda whole: b'[' * 100_000,
    lambda whole: whole.partition(b'\n')[0] + b'\n' + b'[' * 100_000,
    lambda whole: b'[]',
    lambda whole: b'{"photos": []}',
    lambda whole: whole.replace(b'"', b"'"),
    lambda whole: whole.replace(b'.png', b'.pnG', 1),
    lambda whole: whole + b' ',
    lambda whole: with_facts(whole, [1, 2, ['', ''], 'x', 5]),
    lambda whole: with_facts(whole, ['1', 2, 'zz', 7]),
    lambda whole: with_facts(whole, [1, 2, ['0' * 32, ''], '']),
])
def test_a_damaged_memory_is_rebuilt(tmp_path, memory, read, damage):
    expected = find_photos(make_folder(tmp_path))
    (path,) = memory.iterdir()
    remembered, whole = recall(path), path.read_bytes()
    path.write_bytes(damage(whole))
    assert recall(path) == {}
    read.clear()
    assert find_photos(tmp_path).splits == expected.splits
    assert len(read) == len(remembered) == 20 and recall(path) == remembered


def test_a_memory_of_another_format_is_as_if_there_were_none(tmp_path, read):
    folder = make_folder(tmp_path)
    old = {'readers': '1', 'photos': {str(folder / 'cat/000.png'): [1, 2, '0' * 32, '']}}
    put(default_memory(folder), json.dumps(old).encode())
    assert len(find_photos(folder).paths) == len(read) == 20
    assert len(recall(default_memory(folder))) == 20


def test_no_place_for_a_memory(tmp_path):
    make_folder(tmp_path / 'photos')
    put(tmp_path / 'file', b'')
    for memory in (tmp_path / 'file/memory.json', tmp_path / 'photos', os.devnull):
        assert len(find_photos(tmp_path / 'photos', memory=memory).paths) == 20
    assert Path(os.devnull).is_char_device() and (tmp_path / 'file').read_bytes() == b''


def test_many_processes_with_one_memory(tmp_path):
    make_folder(tmp_path / 'photos', n=40)
    code = '''
import sys
from transfer_cvd.photos.find import find_photos
print(len(find_photos(sys.argv[1], memory=sys.argv[2]).paths))
'''
    command = [sys.executable, '-c', code, tmp_path / 'photos', tmp_path / 'memory/m.json']
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == 4 * [b'80\n']
    assert [path.name for path in (tmp_path / 'memory').iterdir()] == ['m.json']
    assert len(recall(tmp_path / 'memory/m.json')) == 80


def fractions_of(n, seed=0):
    """The fractions of `n` different contents."""
    return {ends: split_fraction(ends, seed) for ends in (hash_ends(str(i).encode()) for i in range(n))}


def test_fractions_are_what_they_always_were():
    """If they changed, yesterday's test photos would be in today's training set."""
    found = [split_fraction(hash_ends(data), seed) for data, seed in ((b'one photo', 0), (b'another', 0), (b'', 7))]
    assert hash_ends(b'one photo') == '352194f90053122363dd86829e4b1f2d'
    assert found == [0.519526572432369, 0.9040748628322035, 0.2057288947980851]


def test_the_seed_decides():
    first, second = (list(fractions_of(100, seed).values()) for seed in (0, 1))
    assert np.abs(np.corrcoef(first, second)[0, 1]) < 0.4


def test_no_split_is_empty():
    for n in [*range(3, 12), 25, 60]:
        for seed in range(200):
            splits = assign_splits(fractions_of(n, seed))
            assert len(splits) == n and set(splits.values()) == set(BORDERS)


def test_the_photo_nearest_the_border_moves():
    fractions = fractions_of(400)
    training = sorted((ends for ends in fractions if fractions[ends] < 0.8), key=fractions.get)
    splits = assign_splits({ends: fractions[ends] for ends in training})
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
        (lambda folder: folder.rmdir(), 'does not exist'),
        (lambda folder: (folder.rmdir(), folder.touch()), 'is a file'),
        (lambda folder: None, 'is empty'),
        (lambda folder: put(folder / 'a.png', encoded(picture(), 'PNG')), 'no sub-folders'),
        (lambda folder: make_folder(folder, ['cat']), 'one class only, cat'),
        (empty_class, 'class bird .* has no photos'),
        (only_text, 'class bird .* has no photos'),
        (only_broken, 'class bird .* has 0 .*text.jpg'),
        (two_photos, 'class bird .* has 2 different'),
        (three_copies, 'class bird .* has 1 different'),
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
    """What `find_photos` leaves out, or its error, for a user who may do what the modes say; root may do all."""
    code = f'''
import os
from PIL import Image
from transfer_cvd.errors import InputError
from transfer_cvd.photos.find import find_photos
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
