"""The server that stands in a notebook answers many clients at once, each rightly, and its memory stays flat."""
import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from transfer_cvd.datasets.drawn_pets.drawing import draw_pet

NOTEBOOK = Path(__file__).resolve().parent.parent / 'nbs/using/classifier.ipynb'
CLIENTS, REQUESTS = 8, 200
MEGABYTE = 1024**2


@pytest.fixture(scope='module')
def server(small_model, tmp_path_factory):
    """The cell of the notebook as a file, run as its prose says; its address and its process."""
    source, = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if 'FastAPI()' in cell.source]
    folder = tmp_path_factory.mktemp('server')
    (folder / 'server.py').write_text(source)
    command = [sys.executable, '-m', 'uvicorn', 'server:app', '--port', '0', '--no-access-log']
    environment = os.environ | {'MODEL': str(small_model)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = ''
        while not (address := re.search(r'running on (http://\S+)', said)):
            line = process.stderr.readline()
            assert line, f'the server ended: {said}'
            said += line
        yield address[1], psutil.Process(process.pid)
        process.terminate()


@pytest.fixture(scope='module')
def photos():
    """Twenty files of 1000 x 750 pixels: decoded, two megabytes each."""
    files = []
    for i in range(20):
        pet = Image.fromarray(draw_pet(('cat', 'dog')[i % 2], np.random.default_rng(i)))
        pet.resize((1000, 750)).save(file := io.BytesIO(), 'JPEG')
        files.append(file.getvalue())
    return files


def ask_all(address, photos):
    """What each of the clients is answered, who all ask at once; the next photo for each of its requests."""
    def ask(number):
        with httpx.Client(base_url=address, timeout=60) as client:
            return [client.post('/predict', content=photos[(number + i) % len(photos)])
                    for i in range(REQUESTS // CLIENTS)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, range(CLIENTS)))


def test_many_clients_get_right_answers_and_memory_stays_flat(server, small_classifier, photos):
    address, process = server
    expected = [small_classifier.predict(photo) for photo in photos]
    assert len({answer.probability for answer in expected}) == len(photos)
    ask_all(address, photos)  # after which threads and buffers are there
    before = process.memory_info().rss
    for number, replies in enumerate(ask_all(address, photos)):
        for i, reply in enumerate(replies):
            right = expected[(number + i) % len(photos)]
            assert (reply.status_code, reply.json()['class']) == (200, right.class_name)
            assert reply.json()['probabilities'] == pytest.approx(right.probabilities, abs=1e-5)
    assert process.memory_info().rss - before < 100 * MEGABYTE  # the pixels of all would be 430


@pytest.mark.parametrize('body, reason', [(b'', 'no picture'), (b'buy milk', 'no picture'), (None, 'cut short')])
def test_what_is_no_photo_is_refused_and_the_server_goes_on(server, photos, body, reason):
    body = photos[0][:2000] if body is None else body
    reply = httpx.post(f'{server[0]}/predict', content=body, timeout=60)
    assert reply.status_code == 422 and reason in reply.json()['detail']
    assert httpx.post(f'{server[0]}/predict', content=photos[0], timeout=60).status_code == 200
