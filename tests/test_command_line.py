"""Every wrong input gives one line that says what to do, exit code 2, and leaves nothing behind."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import pytest
from PIL import Image

# Once the photos are missing, once the weights; the exit codes are printed.
TWICE = '''
import sys
from transfer_cvd.cli import main
out, codes = sys.argv[1], []
for option in ('--base', 'efficientnet_lite0'), ('--data', 'drawn_pets'):
    sys.argv = ['transfer_cvd', 'train', '--out', out, *option]
    try:
        main()
    except SystemExit as stopped:
        codes.append(stopped.code)
print(codes)
'''


@pytest.fixture
def refused(shell, tmp_path):
    """Run `train` with wrong options; the one line it answers, after checking that nothing was written."""
    def run(*options, out='out'):
        before = sorted(tmp_path.rglob('*'))
        code, _, errors = shell('train', '--offline', '--out', tmp_path / out, *options)
        assert code == 2
        assert len(errors) == 1, errors
        assert sorted(tmp_path.rglob('*')) == before
        return errors[0]

    return run


def test_no_such_folder(refused, tmp_path):
    assert str(tmp_path / 'nowhere') in refused('--data', tmp_path / 'nowhere')


def test_a_file_as_folder(refused, tmp_path):
    (tmp_path / 'file').write_text('no folder')
    assert str(tmp_path / 'file') in refused('--data', tmp_path / 'file')


def test_empty_folder(refused, tmp_path):
    (tmp_path / 'empty').mkdir()
    assert str(tmp_path / 'empty') in refused('--data', tmp_path / 'empty')


def test_one_class(refused, pets, tmp_path):
    shutil.copytree(pets / 'cat', tmp_path / 'pets/cat')
    assert 'cat' in refused('--data', tmp_path / 'pets')


def test_class_without_photos(refused, pets, tmp_path):
    shutil.copytree(pets, tmp_path / 'pets')
    (tmp_path / 'pets/bird').mkdir()
    assert 'bird' in refused('--data', tmp_path / 'pets')


def test_misspelt_data_set(refused):
    assert 'did you mean drawn_pets' in refused('--data', 'drawn_pet')


def test_misspelt_base(refused):
    assert 'did you mean efficientnet_lite0' in refused('--base', 'eficientnet_lite0')


def test_misspelt_layer(refused, pets):
    assert 'block_12_expand' in refused('--data', pets, '--fine-tune-from', 'block_12_expnd')


def test_image_size_too_small(refused):
    assert '32' in refused('--image-size', 31)


def test_batch_size_too_small(refused, pets):
    assert 'batch size' in refused('--data', pets, '--batch-size', 0)


@pytest.mark.parametrize('option', ['--epochs', '--fine-tune-epochs'])
def test_negative_epochs(refused, option):
    assert '-1 epochs' in refused(option, -1)


@pytest.mark.parametrize('options, said', [
    (('--seed', -1), 'a seed of -1'),
    (('--seed', 2**32), 'from 0 to 4294967295'),
    (('--dropout', 1), 'from 0 to below 1'),
])
def test_a_number_that_makes_no_sense(refused, options, said):
    assert said in refused(*options)


def test_results_among_the_photos(refused, pets, tmp_path):
    shutil.copytree(pets, tmp_path / 'pets')
    assert 'choose an --out outside of it' in refused('--data', tmp_path / 'pets', out='pets/runs/first')


def test_results_that_cannot_be_moved_to_their_place(refused, tmp_path, monkeypatch):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    assert f'such as --out {tmp_path}/link/run' in refused(out='link')
    monkeypatch.chdir(tmp_path / 'real')
    assert 'the folder you are in' in refused(out='real')
    monkeypatch.setattr(os.path, 'ismount', lambda path: path == tmp_path / 'mounted')
    (tmp_path / 'mounted').mkdir()
    assert 'a mounted folder' in refused(out='mounted')


def test_unknown_option(refused):
    assert '--epoch' in refused('--epoch', 3)


def test_a_word_for_a_number(refused):
    assert '--epochs' in refused('--epochs', 'many')


def test_out_in_use(shell, tmp_path):
    (tmp_path / 'kept.txt').write_text('mine')
    code, _, errors = shell('train', '--offline', '--out', tmp_path)
    assert (code, len(errors)) == (2, 1)
    assert str(tmp_path) in errors[0]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('kept.txt', 'mine')]


def test_no_network(tmp_path):
    """Without a network (here: a proxy that refuses) the answer comes within seconds: TFDS does not try again."""
    environment = os.environ | {
        'https_proxy': 'http://127.0.0.1:9',
        'TFDS_DATA_DIR': str(tmp_path / 'tfds'),
        'KERAS_HOME': str(tmp_path / 'keras'),
    }
    environment.pop('TRANSFER_CVD_OFFLINE')
    started = time.perf_counter()
    command = [sys.executable, '-c', TWICE, tmp_path / 'out']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[2, 2]'
    assert done.stderr.count('\n') == 2 and all('--offline' in line for line in done.stderr.splitlines())
    assert time.perf_counter() - started < 60
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'tfds').exists()


def test_data_set_folder_not_writable(shell, monkeypatch, nobody):
    with tempfile.TemporaryDirectory() as readonly, tempfile.TemporaryDirectory() as parent:
        os.chmod(readonly, 0o555)
        monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', readonly)
        code, _, errors = shell('train', '--offline', '--out', f'{parent}/out')
        assert (code, len(errors)) == (2, 1), errors
        assert readonly in errors[0] and 'TFDS_DATA_DIR' in errors[0]
        assert os.listdir(readonly) == os.listdir(parent) == []


def test_broken_photos_are_skipped(own_run):
    report = json.loads((own_run / 'report.json').read_text())
    assert sorted(os.path.basename(photo['path']) for photo in report['skipped']) == ['cut.jpg', 'text.jpg']
    assert all(photo['reason'] for photo in report['skipped'])
    assert sum(n for split in report['data']['counts'].values() for n in split.values()) == 54
    assert sum(line.startswith('skipped ') for line in (own_run.parent / 'said.txt').read_text().splitlines()) == 2
    assert report['fine_tuning'] is None


def test_predict_answers_what_it_can(shell, pets, finished_run, tmp_path):
    (tmp_path / 'text.jpg').write_text('this is no picture')
    photo = pets / 'cat/000.jpg'
    photos = photo, tmp_path / 'text.jpg', pets / 'dog/001.jpg'
    code, lines, errors = shell('predict', finished_run / 'model.keras', *photos)
    assert code == 1
    assert len(lines) == 2 and lines[0].startswith(f'{photo}: ')
    assert len(errors) == 1 and 'text.jpg' in errors[0]


def test_predict_refuses_another_file(shell, tmp_path):
    (tmp_path / 'model.keras').write_text('no model')
    code, lines, errors = shell('predict', tmp_path / 'model.keras', tmp_path / 'photo.jpg')
    assert (code, lines, len(errors)) == (2, [], 1)


def test_predict_json_is_one_object_a_line_and_nothing_else(shell, pets, small_model, tmp_path):
    folder = tmp_path / 'mixed 🐈 "photos"'
    shutil.copytree(pets / 'dog', folder)
    (folder / 'text.jpg').write_text('this is no picture')
    code, lines, errors = shell('predict', small_model, folder, '--json')
    answers = [json.loads(line) for line in lines]
    assert code == 1 and not errors
    assert [answer['path'] for answer in answers] == sorted(str(path) for path in folder.iterdir())
    assert [set(answer) for answer in answers if 'error' in answer] == [{'path', 'error'}]
    for answer in answers[:-1]:
        assert set(answer['probabilities']) == {'cat', 'dog'}
        probabilities = answer['probabilities']
        assert answer['probability'] == probabilities[answer['class']] == max(probabilities.values())


def test_predict_names_the_classes_in_order(shell, pets, small_model):
    code, lines, _ = shell('predict', small_model, pets / 'cat/000.jpg', '--top', 2)
    shown = lines[0].removeprefix(f'{pets / "cat/000.jpg"}: ').split(', ')
    (first, p), (second, q) = (part.split() for part in shown)
    assert code == 0 and {first, second} == {'cat', 'dog'} and float(p) >= float(q)


def test_evaluate(shell, pets, small_model, tmp_path):
    code, lines, errors = shell('evaluate', small_model, pets, '--json')
    results = json.loads(lines[0])
    assert (code, len(lines), errors) == (0, 1, []) and results['n'] == 60 and results['majority_baseline'] == 0.5
    assert sum(map(sum, results['confusion'])) == 60
    shutil.copytree(pets / 'cat', tmp_path / 'pets/cat')
    shutil.copytree(pets / 'dog', tmp_path / 'pets/rabbit')
    code, lines, errors = shell('evaluate', small_model, tmp_path / 'pets')
    assert (code, lines, len(errors)) == (2, [], 1) and 'rabbit' in errors[0]


def test_explain(shell, pets, small_model, tmp_path):
    code, lines, errors = shell('explain', small_model, pets / 'cat/000.jpg', '--out', tmp_path / 'why.png')
    assert (code, lines, errors) == (0, [str(tmp_path / 'why.png')], [])
    assert min(Image.open(tmp_path / 'why.png').size) > 200
    code, _, errors = shell('explain', small_model, pets / 'cat/000.jpg', '--out', tmp_path / 'why.txt')
    assert (code, len(errors)) == (2, 1) and not (tmp_path / 'why.txt').exists()


def test_export_and_predict_with_it(shell, pets, small_model, tmp_path):
    photo = pets / 'dog/001.jpg'
    code, lines, errors = shell('export', small_model, '--format', 'litert', '--out', tmp_path / 'pets', '--data', pets)
    assert (code, len(lines), errors) == (0, 1, []) and str(pets) in lines[0]
    given = [json.loads(shell('predict', tmp_path / name, photo, '--json')[1][0])['probabilities']['dog']
             for name in ('pets.tflite', small_model)]
    assert abs(given[0] - given[1]) < 1e-4
    code, _, errors = shell('export', small_model, '--format', 'litret', '--out', tmp_path / 'more')
    assert (code, len(errors)) == (2, 1) and 'litert' in errors[0]


def test_without_a_command(shell):
    code, lines, errors = shell()
    assert (code, errors) == (0, []) and any(line.split()[:1] == ['train'] for line in lines)
    assert not any(line.endswith('...') for line in lines[1:])
    assert shell('--version') == (0, [f'transfer_cvd {version("transfer_cvd")}'], [])


def test_bases(shell):
    code, lines, errors = shell('bases')
    assert (code, errors) == (0, [])
    assert sum(line.startswith('mobilenet_v2 ') for line in lines) == 1


def test_too_many_broken_photos(shell, pets, tmp_path):
    shutil.copytree(pets, tmp_path / 'pets')
    for i in range(8):
        (tmp_path / f'pets/cat/broken{i}.jpg').write_text('this is no picture')
    code, _, errors = shell('train', '--offline', '--data', tmp_path / 'pets', '--out', tmp_path / 'out')
    assert (code, len(errors)) == (2, 1) and '8 of 68' in errors[0]
    assert not (tmp_path / 'out').exists()
