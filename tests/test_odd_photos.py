"""Pictures and folders made at random: what comes of them is a `PhotoFolder` or one line, never another exception.

50 folders; TRANSFER_CVD_CASES=2000 makes as many. All choices are hypothesis' own, so a failure comes down to the
smallest folder that shows it.
"""
import io
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer_cvd.errors import InputError
from transfer_cvd.photos.splits import BORDERS, PhotoFolder
from transfer_cvd.photos.images import UnreadablePhoto, read_photo
from transfer_cvd.photos.find import find_photos

CASES = int(os.environ.get('TRANSFER_CVD_CASES', 50))
MODES = {  # what Pillow can write in each format
    'JPEG': ['RGB', 'L', 'CMYK'],
    'PNG': ['RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16'],
    'WEBP': ['RGB', 'RGBA'],
    'GIF': ['P', 'L', 'RGB'],
    'BMP': ['RGB', 'L', 'P', '1'],
    'TIFF': ['RGB', 'RGBA', 'L', 'LA', 'CMYK', 'YCbCr', 'LAB', 'I;16', 'I', 'F', '1', 'P'],
    'MPO': ['RGB'],
    'AVIF': ['RGB', 'RGBA'],
    'PPM': ['RGB', 'L'],
    'JPEG2000': ['RGB', 'L'],
}
KNOWN_NAMES = [
    b'cat', b'Cat', b'dog', b'train', b'test', b'val', b'.hidden', b'__MACOSX', b'a b', b'"quoted"', b'line\nbreak',
    b'\xff\xfe', '🐦'.encode(), b'-', b'%s',
]
RANDOM_NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b'/', b'_').replace(b'\0', b'_'))
NAMES = st.one_of(st.sampled_from(KNOWN_NAMES), RANDOM_NAMES.filter(lambda name: name not in (b'.', b'..')))
SUFFIXES = st.sampled_from([
    b'.jpg', b'.JPEG', b'.png', b'.webp', b'.gif', b'.tif', b'.heic', b'.avif', b'.bmp', b'.txt', b'',
])


@st.composite
def pictures(draw):
    """The bytes of a picture of some format, mode, size and orientation."""
    kind = draw(st.sampled_from(sorted(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    size = draw(st.sampled_from([(1, 1), (1, 40), (17, 9), (64, 48), (9, 16), (1000, 2)]))
    pixels = np.random.default_rng(draw(st.integers(0, 50))).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == 'I;16':
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode == 'LAB':
        image = Image.frombytes('LAB', size, pixels.tobytes())
    else:
        image = image.convert(mode)
    options = {}
    if kind in ('JPEG', 'PNG', 'WEBP', 'TIFF', 'AVIF') and draw(st.booleans()):
        options['exif'] = Image.Exif()
        options['exif'][0x0112] = draw(st.integers(0, 9))
    if kind == 'JPEG':
        options |= {'progressive': draw(st.booleans()), 'icc_profile': draw(st.sampled_from([None, b'no profile']))}
    if kind in ('GIF', 'TIFF', 'WEBP', 'PNG') and draw(st.booleans()):
        options |= {'save_all': True, 'append_images': [image.copy()]}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@st.composite
def contents(draw):
    """What may be in a file: mostly a picture, whole or damaged."""
    beginnings = st.sampled_from([b'\0\0\0\x18ftypheic', b'\xff\xd8\xff\xda'])
    data = draw(st.one_of(pictures(), pictures(), st.binary(max_size=40), beginnings))
    damage = draw(st.sampled_from(['none', 'none', 'none', 'cut', 'bytes', 'tail']))
    if damage == 'cut':
        return data[:len(data) * draw(st.integers(0, 9)) // 10]
    if damage == 'bytes' and data:
        damaged = bytearray(data)
        for index in draw(st.lists(st.integers(0, min(len(data), 900) - 1), min_size=1, max_size=4)):
            damaged[index] = draw(st.integers(0, 255))
        return bytes(damaged)
    return data + (bytes(99) if damage == 'tail' else b'')


FILES = st.lists(st.tuples(NAMES, SUFFIXES, contents()), max_size=3)
SOUND = st.sampled_from([0, 1, 3, 4, 5, 6, 7, 8])  # small different pictures in a class: many folders are good enough
VISIBLE = NAMES.filter(lambda name: name[:1] != b'.')
GOOD = st.dictionaries(VISIBLE, st.tuples(st.integers(3, 8), FILES), min_size=2, max_size=3)
CLASSES = st.one_of(GOOD, st.dictionaries(NAMES, st.tuples(SOUND, FILES), max_size=4))
SPLITS = st.sampled_from([b'train', b'val', b'valid', b'test', b'Validation'])
FOLDERS = st.one_of(CLASSES, CLASSES, st.dictionaries(SPLITS, CLASSES, max_size=3))
HEADERS = ['path,label', 'path,label', '\ufeffpath,label', 'path,label,split', 'label,path', 'path', '', 'path;label']
ROWS = st.tuples(
    st.text(max_size=6),
    st.sampled_from(['cat', 'dog', 'dog', '', 'é']),
    st.sampled_from(['', '', 'train', 'val', 'other']),
)
TABLES = st.tuples(
    st.sampled_from(HEADERS),
    st.lists(ROWS, max_size=3),
    st.sampled_from(['utf-8', 'utf-8', 'utf-16', 'latin-1']),
)


def write_folder(folder, tree):
    """Write `tree` under `folder` (bytes)."""
    for name, inside in tree.items():
        path = os.path.join(folder, name)
        os.makedirs(path, exist_ok=True)
        if isinstance(inside, dict):
            write_folder(path, inside)
            continue
        sound, files = inside
        seed = int.from_bytes(path[-30:])
        for i in range(sound):
            pixels = np.random.default_rng((seed, i)).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(os.path.join(path, b'%d.png' % i))
        for stem, suffix, content in files:
            with open(os.path.join(path, stem + suffix), 'wb') as file:
                file.write(content)


def check_line(error):
    """An error for people is one line that can be printed."""
    assert str(error) and '\n' not in str(error) and '\r' not in str(error)
    str(error).encode('utf-8')


def check_found(found):
    """A `PhotoFolder` keeps what it promises."""
    assert isinstance(found, PhotoFolder)
    of_each = (found.paths, found.labels, found.contents, found.fractions, found.times, found.given)
    of_each += (found.splits, found.origin)
    assert len(set(map(len, of_each))) == 1
    assert set(found.splits) <= set(BORDERS) and set(found.origin) <= {'content', 'nearest', 'given'}
    assert all(found.counts['train'].values()) and len(found.class_names) >= 2
    for path in found.paths:
        photo = read_photo(path, 160)
        assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
    for line in [*found.warnings, *found.class_names, *(text for pair in found.skipped for text in pair)]:
        assert line.isprintable()
        line.encode('utf-8')


def check_outcome(source, folder):
    """Check what `find_photos` gives, or its error; the second time, with what it remembers, it is the same."""
    outcomes = []
    for _ in range(2):
        try:
            found = find_photos(source, max_broken=0.6, memory=Path(folder) / '.memory.json')
            check_found(found)
            outcomes.append((found.paths, found.splits, found.skipped, found.warnings))
        except InputError as error:
            check_line(error)
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    event('an error of one line' if isinstance(outcomes[0], str) else 'a PhotoFolder')


@settings(max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tree=FOLDERS)
def test_random_folders(tree):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        write_folder(os.fsencode(folder), tree)
        check_outcome(folder, folder)


@settings(max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=contents(), image_size=st.sampled_from([None, 1, 32, 160]))
def test_random_pictures(data, image_size):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        path = Path(folder) / 'photo.jpg'
        path.write_bytes(data)
        try:
            photo = read_photo(path, image_size)
        except UnreadablePhoto as error:
            assert error.path == path and error.reason
            check_line(error)
            event('unreadable')
        else:
            assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size
            event('a photo')


@settings(max_examples=CASES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(table=TABLES, sound=st.integers(0, 12))
def test_random_tables(table, sound):
    header, rows, encoding = table
    with tempfile.TemporaryDirectory() as folder:
        write_folder(os.fsencode(folder), {b'cat': (sound, []), b'dog': (sound, [])})
        lines = [f'{name}/{i}.png,{name},train' for name in ('cat', 'dog') for i in range(sound)]
        text = '\n'.join([header, *lines, *map(','.join, rows)])
        path = Path(folder) / 'photos.csv'
        path.write_bytes(text.encode(encoding, 'replace'))
        check_outcome(path, folder)
