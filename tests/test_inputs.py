"""What a program hands over is answered like the file it comes from, or refused with the reason that fits."""
import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.datasets.drawn_pets.drawing import draw_pet
from transfer_cvd.errors import InputError
from transfer_cvd.inference.predictor import Predictor
from transfer_cvd.photos.images import UnreadablePhoto, decode_photo, read_photo
from transfer_cvd.photos.inputs import open_photo, single_photos

SIZE = 32


def mean_of_corner(photos):
    """A stand-in for a network: how bright the upper left and the lower right corner are."""
    corners = np.stack([photos[:, :16, :16], photos[:, 16:, 16:]], axis=1).mean(axis=(2, 3, 4)) + 2
    return corners / corners.sum(axis=1, keepdims=True)


@pytest.fixture
def classifier():
    return Predictor(mean_of_corner, ['above', 'below'], SIZE)


@pytest.fixture(params=['.png', '.jpg', '.webp'])
def photo(request, tmp_path):
    """A large picture with noise, lying on its side with an orientation that says so."""
    upright = Image.fromarray(draw_pet('cat', np.random.default_rng(0))).resize((1200, 900))
    noise = np.random.default_rng(0).normal(0, 25, (900, 1200, 1))
    noisy = Image.fromarray(np.clip(np.asarray(upright) + noise, 0, 255).astype(np.uint8))
    lying = noisy.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f'photo{request.param}'
    lying.save(path, exif=exif, quality=90)
    return path


def test_one_photo_in_every_way_has_one_answer(classifier, photo):
    expected = classifier.predict(photo).probabilities
    assert np.ptp([*expected.values()]) > 0.01
    pixels = read_photo(photo)
    data = photo.read_bytes()
    ways = [str(photo), data, bytearray(data), memoryview(data), io.BytesIO(data), Image.open(photo), pixels,
            pixels.astype(np.uint16), np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])]
    with photo.open('rb') as file:
        answers = [classifier.predict(way) for way in [*ways, file]]
    for answer in [*answers, *classifier.predict(iter(ways[1:3])), *classifier.predict(pixels[None])]:
        assert answer.probabilities == pytest.approx(expected, abs=1e-3)


def test_a_tensor_is_an_array(classifier, photo):
    tf = pytest.importorskip('tensorflow')
    pixels = read_photo(photo)
    assert classifier.predict(tf.constant(pixels)) == classifier.predict(pixels)
    assert classifier.predict(tf.constant(pixels[None])) == classifier.predict(pixels[None])


def test_a_generator_is_read_as_it_is_needed(classifier):
    made = []

    def photos():
        for i in range(500):
            made.append(i)
            yield np.full((40, 40, 3), i % 256, np.uint8)

    some = single_photos(photos())
    next(some)
    assert len(made) == 1
    assert len(classifier.predict(photos())) == 500


@pytest.mark.parametrize('wrong, told', [
    (np.random.default_rng(0).random((9, 9, 3)), 'multiply by 255'),
    (np.full((9, 9, 3), -0.5), 'from -1 to 1'),
    (np.full((9, 9, 3), np.nan), 'NaN'),
    (np.full((9, 9, 3), 200.0), 'floating-point'),
    (np.zeros((3, 9, 8), np.uint8), 'channels come first'),
    (np.zeros((2, 3, 9, 8), np.uint8), 'channels come first'),
    (np.zeros((9, 9, 3), np.int64), 'int64'),
    (np.zeros((9, 0, 3), np.uint8), 'is no photo'),
    ('https://example.org/rex.jpg', 'download it first'),
    ('pets/*.jpg', 'glob'),
    (None, 'NoneType is no photo'),
    (7, 'int is no photo'),
    ({'photo': 'rex.jpg'}, 'dict is no photo'),
    ([np.zeros((9, 9, 3), np.uint8), None], 'NoneType is no photo'),
    (io.StringIO('text'), "'rb'"),
])
def test_what_is_no_photo_is_refused_in_one_line(classifier, wrong, told):
    with pytest.raises(InputError, match=told) as raised:
        classifier.predict(wrong)
    assert '\n' not in str(raised.value)


def test_bytes_that_are_no_picture(classifier):
    with pytest.raises(UnreadablePhoto, match='no picture of a known format'):
        classifier.predict(b'text')
    assert classifier.predict([b'text'])[0].error


# More than eight bits


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_a_picture_is_as_bright_as_the_bits_it_uses(tmp_path, bits, suffix):
    eight = np.asarray(Image.fromarray(draw_pet('dog', np.random.default_rng(1))).convert('L'))
    values = (eight.astype(np.uint16) << (bits - 8)) | (2 ** (bits - 8) - 1)
    values[0, 0] = 2**bits - 1
    path = tmp_path / f'dim{suffix}'
    Image.fromarray(values).save(path)
    read = read_photo(path)[..., 0]
    assert np.abs(read.astype(int) - eight)[1:].max() <= 1
    assert np.array_equal(open_photo(values), read_photo(path))


@pytest.mark.parametrize('values', [
    np.linspace(0, 1, 300, dtype=np.float32).reshape(15, 20),
    np.linspace(0, 3000, 300, dtype=np.float32).reshape(15, 20),
    np.linspace(-1000, 3000, 300).reshape(15, 20).astype(np.int32),
])
def test_other_numbers_are_scaled_too(tmp_path, values):
    Image.fromarray(values).save(tmp_path / 'scan.tif')
    read = read_photo(tmp_path / 'scan.tif')[..., 0]
    assert read.min() == 0 and read.max() > 180 and (np.diff(read.ravel().astype(int)) >= 0).all()


def test_pixels_that_are_not_numbers(tmp_path):
    Image.fromarray(np.full((5, 5), np.nan, np.float32)).save(tmp_path / 'nan.tif')
    with pytest.raises(UnreadablePhoto, match='not numbers'):
        read_photo(tmp_path / 'nan.tif')


# Metadata


def saved(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(draw_pet('cat', np.random.default_rng(2)))
UPRIGHT = np.asarray(PICTURE)


def chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', crc)


def with_chunk(*chunks):
    data = saved(PICTURE, format='PNG')
    return data[:33] + b''.join(chunks) + data[33:]


BROKEN_EXIF = b'Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03'
ODD = {
    'PNG with much text': with_chunk(chunk(b'zTXt', b'prompt\0\0' + zlib.compress(b'x' * 3_000_000))),
    'PNG with a large profile': with_chunk(chunk(b'iCCP', b'p\0\0' + zlib.compress(b'x' * 3_000_000))),
    'PNG whose text has a wrong checksum': with_chunk(chunk(b'tEXt', b'by\0me', crc=1)),
    'PNG with broken EXIF': with_chunk(chunk(b'eXIf', BROKEN_EXIF[6:])),
    'PNG with EXIF of a wrong checksum': with_chunk(chunk(b'eXIf', BROKEN_EXIF[6:], crc=1)),
    'WebP with broken EXIF': saved(PICTURE, format='WEBP', lossless=True, exif=BROKEN_EXIF),
    'JPEG with broken EXIF': saved(PICTURE, format='JPEG', exif=BROKEN_EXIF),
    'JPEG without its end': saved(PICTURE, format='JPEG')[:-2],
    'progressive JPEG without its end': saved(PICTURE, format='JPEG', progressive=True)[:-2],
}


@pytest.mark.parametrize('name', ODD)
def test_metadata_never_costs_a_photo(name):
    with warnings.catch_warnings():
        pixels = decode_photo(ODD[name], name)
    assert pixels.shape == UPRIGHT.shape
    assert np.abs(pixels.astype(int) - UPRIGHT).mean() < (6 if 'JPEG' in name else 0.1)


def test_an_orientation_beside_an_odd_tag_is_used():
    exif = Image.Exif()
    exif[0x0112], exif[0x9286] = 6, b'\xff' * 40
    data = saved(PICTURE.transpose(Image.Transpose.ROTATE_90), format='PNG', exif=exif)
    assert np.array_equal(decode_photo(data, 'lying'), UPRIGHT)


@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('share', [0.5, 0.9, 0.98])
def test_a_jpeg_that_is_cut_is_still_refused(progressive, share):
    data = saved(PICTURE, format='JPEG', progressive=progressive)
    with pytest.raises(UnreadablePhoto, match='cut short'):
        decode_photo(data[:int(share * len(data))], 'cut')


def test_no_warning_of_pillow_reaches_the_screen(tmp_path):
    for name, data in ODD.items():
        (tmp_path / name.replace(' ', '-')).write_bytes(data)
    code = ('import sys, pathlib\nfrom transfer_cvd.photos.images import read_photo\n'
            'for path in sorted(pathlib.Path(sys.argv[1]).iterdir()): read_photo(path)')
    done = subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ''
