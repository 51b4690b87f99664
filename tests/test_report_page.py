"""The page of a run: whole, safe with strange names, and right in a real browser on a phone and on a desk."""
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from markupsafe import escape

from transfer_cvd.evaluation.metrics import Evaluation
from transfer_cvd.evaluation.plots import plot_confused
from transfer_cvd.evaluation.report.page import (
    TEMPLATES, Photo, choose_shown, left_out, matrix_cells, place_curve, write_report_page,
)
from transfer_cvd.evaluation.results import Report, versions
from transfer_cvd.feature_extraction import add_head

NAMES = ['<img src=x onerror=alert(1)>', '"owl" & \'elk\' $classes', 'كلب 🐕']
BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
PER_CLASS = 15
PARTS = TEMPLATES.get_template('parts.html.j2').module

# A page that shows the report in a frame, clicks on a cell of its matrix, and writes down what it saw.
PROBE = '''<!DOCTYPE html><iframe src="report.html" width="{width}" height="900"></iframe><pre></pre><script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument;
  const look = id => frame.contentWindow.getComputedStyle(page.getElementById(id)).display;
  const before = look('cell-0-1');
  const cell = page.querySelector('a[href="#cell-0-1"]');
  cell.focus();
  const focused = page.activeElement === cell;
  cell.click();
  setTimeout(() => {
    const saw = {before, focused, after: look('cell-0-1'), other: look('cell-0-0'),
      wide: page.documentElement.scrollWidth,
      photos: [...page.querySelectorAll('#cell-0-1 small bdi:last-child')].map(name => name.textContent),
      broken: [...page.images].filter(image => image.loading != 'lazy' && !image.naturalWidth).length,
      injected: page.querySelectorAll('img[src=x]').length};
    document.querySelector('pre').textContent = JSON.stringify(saw);
  }, 200);
};
</script>'''


class Seen(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def values(self, tag, key):
        return [attributes.get(key) for name, attributes in self.tags if name == tag]


def words(html):
    """The text of a page or a part of it, without tags and style, on one line."""
    return ' '.join(unescape(re.sub(r'<style>.*?</style>|<[^>]+>', '', html, flags=re.DOTALL)).split())


def stage(n):
    falling = np.linspace(0.9, 0.3, n).tolist()
    return {'loss': falling, 'val_loss': falling, 'accuracy': falling[::-1], 'val_accuracy': falling[::-1],
            'learning_rate': 1e-4}


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """A page on 45 photos of three classes with strange names, and what it was made of.

    Photos 0 to 3 are taken for class 1.
    """
    folder = tmp_path_factory.mktemp('report')
    labels = np.arange(3 * PER_CLASS) // PER_CLASS
    logits = np.random.default_rng(0).normal(0, 0.3, (len(labels), 3)).astype(np.float32)
    logits[np.arange(len(labels)), np.where(np.arange(len(labels)) < 4, 1, labels)] += 4
    pictures = np.random.default_rng(1).integers(0, 256, (len(labels), 40, 60, 3), np.uint8)
    counts = {split: dict.fromkeys(NAMES, PER_CLASS) for split in ('train', 'validation', 'test')}
    evaluation = Evaluation.from_logits(logits, labels, NAMES)
    evaluation.paths = [str(folder / f'photo <{i}> "{NAMES[label][:3]}".jpg') for i, label in enumerate(labels)]
    model = add_head(keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=8)]), 3)
    model.histories = {'feature_extraction': stage(10), 'fine_tuning': stage(1)}
    results = Report(
        data={'name': str(folder), 'counts': counts},
        class_names=NAMES,
        base={'name': 'a base', 'image_size': 32},
        feature_extraction={'epochs': 10, 'accuracy': 0.9},
        fine_tuning=None,
        test=evaluation.results,
        seconds={'data': 1.0},
        skipped=[{'path': str(folder / 'a<b>.txt'), 'reason': 'it is cut short'}],
        seed=3,
        versions=versions(),
        near_duplicates=[evaluation.paths[:2]],
        near_duplicates_apart=0,
        class_weights={NAMES[0]: 2.0},
        cross_validation={'accuracy': 0.875, 'interval': (0.8, 0.9), 'n': 45},
    )
    photos = dict(enumerate(pictures))
    write_report_page(folder / 'report.html', results, evaluation, photos, ['only <15> photos & few'], model)
    page = (folder / 'report.html').read_text(encoding='utf-8')
    return SimpleNamespace(folder=folder, page=page, evaluation=evaluation, photos=photos, results=results)


def test_it_is_one_file_without_script(report):
    seen = Seen(report.page)
    assert [path.name for path in report.folder.iterdir()] == ['report.html']
    assert not {'script', 'link', 'iframe', 'object'} & {tag for tag, _ in seen.tags}
    assert all(source.startswith('data:image/jpeg;base64,') for source in seen.values('img', 'src'))
    assert all(target.startswith('#') for target in seen.values('a', 'href'))
    assert all(seen.values('img', 'alt'))
    assert not any(key.startswith('on') for _, attributes in seen.tags for key in attributes)


def test_nothing_is_loaded_from_elsewhere(report):
    policies = [attributes['content'] for tag, attributes in Seen(report.page).tags
                if attributes.get('http-equiv') == 'Content-Security-Policy']
    assert len(policies) == 1
    assert {'default-src \'none\'', 'img-src data:', 'style-src \'unsafe-inline\''} <= set(policies[0].split('; '))
    [style] = re.findall(r'<style>(.*?)</style>', report.page, flags=re.DOTALL)
    assert '--paper' in style and not re.search(r'url\(|@import|//', style)
    assert not re.search(r'https?:', report.page)


def test_names_of_others_are_text_wherever_they_stand(report):
    seen = Seen(report.page)
    assert not any('src' in attributes and attributes['src'] == 'x' for _, attributes in seen.tags)
    for name in NAMES:
        assert f'<bdi>{escape(name)}</bdi>' in report.page  # beside text of another direction it keeps its own
        assert any(name in alt for alt in seen.values('img', 'alt'))
        assert any(name in (label or '') for label in seen.values('a', 'aria-label'))
    [title] = re.findall('<title>(.*?)</title>', report.page)
    assert unescape(title).startswith(', '.join(NAMES))


def test_names_keep_their_order_and_odd_characters_are_shown():
    assert PARTS.path('كلب/جرو/1.jpg') == '<bdi>كلب</bdi>/<bdi>جرو</bdi>/<bdi>1.jpg</bdi>'
    assert PARTS.path(os.fsdecode(b'\xff/a\nb')) == '<bdi>\\xff</bdi>/<bdi>a\\nb</bdi>'
    assert PARTS.name('\u202egpj.exe') == '<bdi>\\u202egpj.exe</bdi>'  # does not turn the direction of what follows


def test_links_lead_somewhere_and_ids_are_unique(report):
    seen = Seen(report.page)
    ids = [attributes['id'] for _, attributes in seen.tags if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in seen.values('a', 'href')} <= set(ids)


def test_it_says_what_the_results_say(report):
    said, test = words(report.page), report.results.test
    for wanted in (f'{test["accuracy"]:.1%}', f'{test["interval"][0]:.1%}', '87.5%', 'of 45 test photos',
                   'only <15> photos & few', '1 file was left out', 'a<b>.txt', 'it is cut short',
                   '1 group of near-duplicates, 2 photos', 'no photo is tested whose twin', 'Seed 3.', 'left out',
                   '11 of 15', f'keras {versions()["keras"]},', '$classes', 'Photos of each class (45 + 45 + 45)'):
        assert wanted in said, wanted
    assert str(report.folder.parent) not in report.page  # names are shown from the data's folder on


def test_it_can_be_made_without_paths_model_or_mistakes(report):
    right = Evaluation.from_logits(report.evaluation.logits[4:], report.evaluation.labels[4:], NAMES)
    results = replace(report.results, data={'name': 'a data set', 'counts': report.results.data['counts']},
                      test=right.results, skipped=[], near_duplicates=None, near_duplicates_apart=None,
                      cross_validation=None, class_weights=None)
    photos = {i - 4: photo for i, photo in report.photos.items() if i >= 4}
    path = report.folder.parent / 'other.html'
    write_report_page(path, results, right, photos)
    page = path.read_text(encoding='utf-8')
    assert 'test photo 1<' in page and 'There is none' in page and 'No file was left out' in page
    assert 'Grad-CAM' not in page and '<svg' not in page and 'near-duplicates' not in page


@pytest.mark.parametrize('apart, says', [
    (0, 'no photo is tested whose twin was trained on'),
    (1, '1 of them stands in more than one split'),
    (3, '3 of them stand in more than one split'),
    (None, ''),
])
def test_it_says_that_twins_are_together_only_where_they_are(report, apart, says):
    page = words(PARTS.left_out(left_out(replace(report.results, near_duplicates_apart=apart))))
    assert says in page and ('twin' in page) == (apart == 0) and ('look better' in page) == bool(apart)


def test_a_matrix_of_three_hundred_classes():
    names, confusion = [f'breed {i}' for i in range(300)], np.eye(300, dtype=int) * 5
    table = PARTS.matrix(matrix_cells(confusion.tolist(), names, []), names, many=True)
    assert table.count('<a ') == 300 and table.count('<td><span>·</span></td>') == 300 * 299
    assert len(table) < 3e6


def test_a_cell_holds_its_photos_the_most_certain_first():
    photos = [Photo('cat', 'dog', p, f'{p}.jpg', 'data:') for p in (0.6, 0.9, 0.7)]
    cells = matrix_cells([[2, 4], [0, 0]], ['cat', 'dog'], photos)
    assert [photo.probability for photo in cells[0][1].photos] == [0.9, 0.7, 0.6]
    assert [[(cell.id, cell.count, round(cell.share, 3)) for cell in row] for row in cells] == [
        [('cell-0-0', 2, 0.333), ('cell-0-1', 4, 0.667)],
        [('cell-1-0', 0, 0), ('cell-1-1', 0, 0)],
    ]
    said = words(PARTS.cell_photos(cells))
    assert 'cat taken for dog 3 of 4 are in this page' in said and 'cat, recognised 0 of 2 are in this page' in said


@pytest.mark.parametrize('values', [[1.0], [0.5, 0.5], [1.0, 1.0, 1.0], [0.0, 1.0], [0.98, 0.999]])
def test_a_curve_stays_within_its_axes(values):
    stage = {'accuracy': values, 'val_accuracy': values[::-1], 'loss': values, 'val_loss': values}
    for key in ('accuracy', 'loss'):
        curve = place_curve({'feature_extraction': stage}, key)
        for points in curve.lines.values():
            assert len(points) == len(values)
            assert all(curve.left <= x <= curve.right and curve.top <= y <= curve.bottom for x, y in points)
        assert len(curve.ticks) > 1 and (key == 'loss' or max(value for _, value in curve.ticks) <= 1)


def test_a_limit_holds(report):
    shown = choose_shown(report.evaluation, 20)
    assert len(shown) == 20 and set(shown[:4]) == {0, 1, 2, 3}
    cells = {(report.evaluation.labels[i], report.evaluation.predicted[i]) for i in shown}
    assert cells == set(zip(report.evaluation.labels, report.evaluation.predicted))  # something of each


def test_confused_photos_are_shown_with_their_names(report):
    figure = plot_confused(report.evaluation, report.photos, NAMES[0], NAMES[1])
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 4 and {title.split('>')[0] for title in titles} == {f'photo <{i}' for i in range(4)}


@pytest.mark.skipif(not BROWSER, reason='no Chromium here')
@pytest.mark.parametrize('width', [390, 1280])
def test_in_a_browser(report, tmp_path, width):
    shutil.copy(report.folder / 'report.html', tmp_path)
    (tmp_path / 'probe.html').write_text(PROBE.replace('{width}', str(width)))
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-sync',
               '--disable-background-networking', '--disable-component-update', '--allow-file-access-from-files',
               '--enable-logging=stderr', '--v=0', '--virtual-time-budget=5000', '--window-size=1400,1000',
               f'--user-data-dir={tmp_path / "profile"}', '--dump-dom', (tmp_path / 'probe.html').as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if 'CONSOLE' in line] == []
    saw = json.loads(unescape(re.search('<pre>(.*?)</pre>', done.stdout)[1]))
    assert saw['before'] == 'none' and saw['after'] == 'block' and saw['other'] == 'none' and saw['focused']
    assert saw['wide'] <= width  # nothing makes the page scroll sideways
    assert sorted(saw['photos']) == [f'photo <{i}> "<im".jpg' for i in range(4)]
    assert saw['broken'] == saw['injected'] == 0
