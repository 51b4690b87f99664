"""A page that classifies in the browser answers like `predict`, keeps photos to itself and works without a network.

A real Chromium is driven by its own protocol, where it is installed (Debian's chromium and chromium-driver), with the
runtime that npm fetches.
"""
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from functools import partial

import numpy as np
import pytest
from PIL import Image

from transfer_cvd.datasets.drawn_pets.drawing import draw_pet
from transfer_cvd.errors import InputError
from transfer_cvd.inference.classifier import Classifier
from transfer_cvd.inference.exports import export_classifier, open_classifier
from transfer_cvd.inference.web import page

FILES = ['classifier.json', 'classifier.onnx', 'index.html', 'app.js', 'style.css', 'service-worker.js', 'icon-192.png',
         'icon-512.png', 'manifest.webmanifest', 'LICENSE-onnxruntime.txt', *page.RUNTIME_FILES]
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # how the protocol of browsers names an element


def test_the_folder_and_its_classifier(small_classifier, no_runtime, pets, tmp_path):
    export = export_classifier(small_classifier, 'web', tmp_path / 'page', pets, runtime=no_runtime)
    assert sorted(path.name for path in export.path.iterdir()) == sorted(FILES)
    assert export.difference <= 1e-5 and export.bytes == sum(path.stat().st_size for path in export.path.iterdir())
    opened = open_classifier(export.path)
    photo = draw_pet('cat', np.random.default_rng(0))
    expected = small_classifier.predict(photo[:100, :100]).probability
    assert abs(opened.predict(photo[:100, :100]).probability - expected) <= 1e-5
    assert '://' not in (export.path / 'index.html').read_text()


def test_what_cannot_be_exported_as_a_page(small_classifier, no_runtime, tmp_path, monkeypatch):
    cases = [
        ({'runtime': tmp_path}, 'lacks files of onnxruntime-web'),
        ({'runtime': no_runtime, 'formatted': True}, 'leave out --formatted'),
        ({}, '--runtime'),
    ]
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for options, message in cases:
        with pytest.raises(InputError, match=message) as error:
            export_classifier(small_classifier, 'web', tmp_path / 'page', **options)
        assert '\n' not in str(error.value)
    with pytest.raises(InputError, match='leave out'):
        export_classifier(small_classifier, 'onnx', tmp_path / 'page', runtime=no_runtime)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('program, message', [
    (None, 'npm to fetch it: install Node.js'),
    ('echo "npm ERR! network" >&2; exit 1', r'npm did not fetch .* \(npm ERR! network\)'),
    ('echo something else > onnxruntime-web.tgz', 'checksum'),
])
def test_npm_that_gives_no_runtime(tmp_path, monkeypatch, program, message):
    (tmp_path / 'bin').mkdir()
    if program:
        (tmp_path / 'bin' / 'npm').write_text(f'#!/bin/sh\n{program}\n')
        (tmp_path / 'bin' / 'npm').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('TRANSFER_CVD_OFFLINE')
    with pytest.raises(InputError, match=message) as error:
        page.fetch_runtime()
    assert '--runtime' in str(error.value) and '\n' not in str(error.value)
    assert not (tmp_path / 'cache').exists()


class Browser:
    """A Chromium without a window, driven by chromedriver."""

    def __init__(self, width: int, folder):
        port = 9600 + os.getpid() % 300
        command = ['chromedriver', f'--port={port}']
        self.driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = f'http://127.0.0.1:{port}/session'
        options = ['--headless=new', '--no-sandbox', f'--window-size={width},900', f'--user-data-dir={folder}',
                   '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream', '--disable-dev-shm-usage']
        wanted = {'browserName': 'chrome', 'goog:chromeOptions': {'args': options, 'binary': shutil.which('chromium')},
                  'goog:loggingPrefs': {'browser': 'ALL', 'performance': 'ALL'}}
        for turn in range(100):
            try:
                made = self.ask('', {'capabilities': {'alwaysMatch': wanted}})
                break
            except OSError:  # it is not listening yet
                if turn == 99:
                    raise
                time.sleep(0.1)
        self.address += '/' + made['sessionId']
        self.logs = {'browser': [], 'performance': []}

    def ask(self, command, given=None, method='POST'):
        data = None if method != 'POST' else json.dumps(given or {}).encode()
        request = urllib.request.Request(self.address + command, data, {'Content-Type': 'application/json'},
                                         method=method)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)['value']

    def run(self, script):
        return self.ask('/execute/sync', {'script': script, 'args': []})

    def wait(self, condition, seconds=240):
        until = time.monotonic() + seconds
        while not self.run(f'return Boolean({condition})'):
            shown = self.run('return document.body.innerText')
            assert time.monotonic() < until, (condition, shown, self.log('browser'))
            time.sleep(0.2)

    def click(self, name):
        found = self.ask('/element', {'using': 'css selector', 'value': name})[ELEMENT]
        self.ask(f'/element/{found}/click')

    def choose(self, paths):
        found = self.ask('/element', {'using': 'css selector', 'value': '#choose'})[ELEMENT]
        self.ask(f'/element/{found}/value', {'text': '\n'.join(map(str, paths))})

    def cards(self):
        """The probabilities on the cards by the name of the photo; of one that cannot be read, its error."""
        return dict(self.run('''
            return [...document.querySelectorAll('article')].map(({ dataset }) =>
                [dataset.name, dataset.error ?? JSON.parse(dataset.probabilities)]);
        '''))

    def log(self, kind):
        """All that was logged so far."""
        self.logs[kind] += self.ask('/se/log', {'type': kind})
        return self.logs[kind]

    def asked_for(self):
        """The addresses of all requests."""
        entries = [json.loads(entry['message'])['message'] for entry in self.log('performance')]
        requests = [entry['params'] for entry in entries if entry['method'] == 'Network.requestWillBeSent']
        return [entry['request']['url'] for entry in requests]

    def close(self):
        self.ask('', method='DELETE')
        self.driver.terminate()
        self.driver.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    """The files of the runtime, from npm, in a cache of the tests' own."""
    missing = [name for name in ('chromium', 'chromedriver', 'npm') if shutil.which(name) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} not installed: apt-get install chromium chromium-driver npm')
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('TRANSFER_CVD_OFFLINE')
        try:
            files = page.fetch_runtime()
        except InputError as error:
            pytest.skip(f'no runtime: {error}')
    folder = tmp_path_factory.mktemp('runtime')
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope='module')
def served(runtime, finished_run, tmp_path_factory):
    """The classifier of a run, its page, a server for it, and the server's address."""
    classifier = Classifier.load(finished_run / 'model.keras')
    folder = tmp_path_factory.mktemp('served') / 'page'
    export_classifier(classifier, 'web', folder, runtime=runtime)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield classifier, server, f'http://127.0.0.1:{server.server_port}/'
    server.server_close()


@pytest.fixture(scope='module')
def hundred(tmp_path_factory):
    """A hundred photos: of all sizes, turned by their EXIF, transparent, grey, and as JPEG, PNG and WebP."""
    folder = tmp_path_factory.mktemp('hundred')
    rng = np.random.default_rng(0)
    for i in range(100):
        photo = Image.fromarray(draw_pet(('cat', 'dog')[i % 2], np.random.default_rng((5, i))))
        if i % 4 == 3:  # larger than what is averaged, with the grain of a camera
            photo = photo.resize([int(side * rng.uniform(3, 6)) for side in photo.size], Image.Resampling.BICUBIC)
            noise = rng.normal(0, 8, (photo.height, photo.width, 1))
            photo = Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = i % 8 + 1 if i % 3 == 0 else 1
        if i % 10 == 7:
            photo.putalpha(Image.linear_gradient('L').resize(photo.size))
        kind = 'png' if i % 10 == 7 else ('jpg', 'jpg', 'webp')[i % 3]
        photo.save(folder / f'{i:02}.{kind}', exif=exif, quality=90)
    return sorted(folder.iterdir())


def test_a_hundred_photos_in_chromium(served, hundred, tmp_path):
    classifier, server, address = served
    browser = Browser(1280, tmp_path / 'profile')
    try:
        browser.ask('/url', {'url': address})
        browser.wait('document.body.dataset.state === "ready"')
        assert 'nothing is sent anywhere' in browser.run('return document.body.innerText')
        browser.choose(hundred)
        browser.wait('document.querySelectorAll("article").length === 100')
        cards = browser.cards()
        found = np.array([cards[path.name] for path in hundred])
        expected = np.array([list(answer.probabilities.values()) for answer in classifier.predict(hundred)])
        off = np.abs(found - expected).max(axis=1)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).sum() >= 99, dict(zip(hundred, off))
        assert off.max() <= 0.02, sorted(zip(off, [path.name for path in hundred]))[-5:]

        (tmp_path / 'text.jpg').write_text('no picture')
        browser.choose([tmp_path / 'text.jpg'])
        browser.wait('document.querySelectorAll("article").length === 101')
        assert 'cannot read it as a picture' in browser.run('return document.querySelector("article").innerText')
        browser.click('#camera')
        browser.wait('document.getElementById("video").videoWidth > 0')
        browser.click('#shoot')
        browser.wait('document.querySelectorAll("article").length === 102')
        assert len(browser.cards()[browser.run('return document.querySelector("article").dataset.name')]) == 2

        browser.wait('document.body.dataset.offline === "ready"')
        server.shutdown()
        server.server_close()
        browser.ask('/refresh')
        browser.wait('document.body.dataset.state === "ready"')
        browser.choose(hundred[:1])
        browser.wait('document.querySelectorAll("article").length === 1')
        assert np.abs(browser.cards()[hundred[0].name] - found[0]).max() <= 1e-6

        errors = [entry['message'] for entry in browser.log('browser') if entry['level'] in ('SEVERE', 'ERROR')]
        assert errors == []
        others = [url for url in browser.asked_for() if not url.startswith((address, 'blob:', 'data:', 'chrome:'))]
        assert others == [] and len(browser.asked_for()) > 5
    finally:
        browser.close()
