"""The notebooks are the source: exporting and cleaning change nothing, and what was saved may be published."""
import base64
import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import notebooks

PATHS = sorted(path for path in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
PHOTO = base64.b64encode(b'the bytes of a photo').decode()


def contents(folder):
    """The files under `folder` and what is in them, without caches."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*')
            if path.is_file() and not {'__pycache__', '.ipynb_checkpoints', '.last_checked'} & set(path.parts)}


def nbdev(command, tree):
    """Run a command of nbdev on the project in `tree`."""
    # With IN_TEST set, nbdev exports nothing; and nbdev_clean only warns of what it could not clean.
    environment = {name: value for name, value in os.environ.items() if name != 'IN_TEST'}
    environment['PYTHONWARNINGS'] = 'error::UserWarning'
    subprocess.run([Path(sys.executable).with_name(command)], cwd=tree, env=environment, check=True)


@pytest.fixture
def tree(tmp_path):
    """A copy of the project with its notebooks and without the modules that are written from them."""
    shutil.copytree(ROOT / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('.*'))
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    (tmp_path / 'transfer_cvd').mkdir()
    for name in ('__init__.py', '__main__.py'):
        shutil.copy(ROOT / 'transfer_cvd' / name, tmp_path / 'transfer_cvd')
    return tmp_path


def test_exporting_again_changes_nothing(tree):
    nbdev('nbdev_export', tree)
    exported = contents(tree / 'transfer_cvd')
    committed = {path: text for path, text in contents(ROOT / 'transfer_cvd').items() if path.suffix == '.py'}
    assert sorted(exported) == sorted(committed)
    assert [name for name in exported if exported[name] != committed[name]] == []


def test_cleaning_again_changes_nothing(tree):
    nbdev('nbdev_clean', tree)
    cleaned = contents(tree / 'nbs')
    assert [path.name for path in PATHS if cleaned[path.relative_to(ROOT / 'nbs')] != path.read_bytes()] == []


def test_readme_is_what_the_index_makes():
    assert notebooks.readme_is_current(notebooks.readme_page()), 'make readme writes it again'


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_saved_outputs_and_style(path):
    assert notebooks.notebook_faults(path) == []


# What stands guard itself, on notebooks with something wrong in them


def notebook(*cells):
    """A notebook of cells (source, outputs, tags), each saved with that code and below a line of prose."""
    nb = nbformat.v4.new_notebook()
    for source, outputs, *tags in cells:
        metadata = {'tags': list(tags)} if tags else {}
        code = nbformat.v4.new_code_cell(source, outputs=copy.deepcopy(outputs), metadata=metadata)
        nb.cells += [nbformat.v4.new_markdown_cell('why'), code]
    nb.metadata[notebooks.KEY] = {'code_hash': notebooks.code_hash(nb), 'mode': 'offline'}
    return nb


def shown(**data):
    """The output of a cell that shows something; `image_png='...'` becomes the type image/png."""
    return nbformat.v4.new_output('display_data', {mime.replace('_', '/'): content for mime, content in data.items()})


def printed(text, name='stdout'):
    return nbformat.v4.new_output('stream', text=text, name=name)


PICTURES = {
    'png': shown(image_png=PHOTO, text_plain='<Figure>'),
    'jpeg': shown(image_jpeg=PHOTO, text_plain='<PIL.Image.Image>'),
    'gif': shown(image_gif=PHOTO, text_plain='<Image>'),
    'svg': shown(**{'image/svg+xml': f'<svg><image href="data:image/png;base64,{PHOTO}"/></svg>'}),
    'pdf': shown(application_pdf=PHOTO),
    'html': shown(text_html=f'<table><tr><td><img src="data:image/png;base64,{PHOTO}"></td></tr></table>',
                  text_plain='<HTML>'),
    'style': shown(text_html=f'<div style="background: URL(DATA:image/png;base64,{PHOTO})">'),
    'markdown': shown(text_markdown=f'![rex](data:image/jpeg;base64,{PHOTO})'),
    'printed': printed(f'data:image/png;base64,{PHOTO}\n'),
}


@pytest.mark.parametrize('kind', PICTURES)
def test_an_untagged_picture_is_found_and_is_never_saved(kind):
    nb = notebook(('show(photo)', [PICTURES[kind]]))
    assert any('tag figure' in fault for fault in notebooks.output_faults(nb, 'offline'))
    notebooks.clean_outputs(nb)
    assert PHOTO not in nbformat.writes(nb)
    assert notebooks.output_faults(nb, 'offline') == []


def test_a_figure_keeps_its_picture_and_other_cells_their_text():
    table = shown(text_html='<table><tr><td>0.97</td></tr></table>', text_plain='0.97')
    nb = notebook(('curves()', [PICTURES['png']], 'figure'), ('table', [table]), ('show(photo)', [PICTURES['jpeg']]))
    notebooks.clean_outputs(nb)
    assert nb.cells[1].outputs[0].data['image/png'] == PHOTO
    assert nb.cells[3].outputs[0].data == table.data
    assert nb.cells[5].outputs[0].data == {'text/plain': '<PIL.Image.Image>'}


def test_of_a_picture_in_two_formats_the_smaller_is_kept():
    nb = notebook(('sheet', [shown(image_png=PHOTO * 2, image_jpeg=PHOTO, text_plain='<PIL.Image.Image>')], 'figure'))
    notebooks.clean_outputs(nb)
    assert nb.cells[1].outputs[0].data == {'image/jpeg': PHOTO, 'text/plain': '<PIL.Image.Image>'}


def test_a_picture_pasted_into_prose_is_found():
    pasted = notebook(('1', [shown(text_plain='1')]))
    pasted.cells[0].attachments = {'rex.jpg': {'image/jpeg': PHOTO}}
    assert 'cell 1' in notebooks.style_faults(pasted, chapter=False)[0]
    written = notebook(('1', [shown(text_plain='1')]))
    written.cells[0].source = f'![rex](data:image/jpeg;base64,{PHOTO})'
    assert 'cell 1' in notebooks.style_faults(written, chapter=False)[0]


def test_folders_of_this_machine_are_shortened(monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', '/somewhere/tfds')
    text = f"{Path.home()}/photos/rex.jpg and ['{ROOT}/nbs', '/somewhere/tfds/cats_vs_dogs']"
    assert notebooks.clean_text(text) == "~/photos/rex.jpg and ['.../nbs', '~/tensorflow_datasets/cats_vs_dogs']"


@pytest.mark.parametrize('path', [
    '/home/somebody/rex.jpg', '/Users/somebody/pets', '/var/lib/x.so', 'file:///home/somebody/x', r'C:\Users\me',
])
def test_a_path_of_a_machine_is_not_saved(path):
    nb = notebook(('1', [shown(text_plain='1')]), ('place', [printed(f'read ({path})\n')]))
    assert any('cell 4 (place)' in fault and path in fault for fault in notebooks.output_faults(nb, 'offline'))
    with pytest.raises(notebooks.Fault, match=r'cell 4 \(place\)'):
        notebooks.clean_outputs(nb)


@pytest.mark.parametrize('text', [
    'https://x.org/home/x', '~/pets/cat', '.../nbs/x', 'pets/tmp/cat.jpg', '</root>', '32/160 in 1/2 s', 'runs/first',
])
def test_what_is_no_path_of_a_machine(text):
    assert notebooks.absolute_paths(text) == []


def test_progress_and_log_lines():
    bar = 'Epoch 1/2\n\x1b[1m1/3\x1b[0m loss: 9\b\b\b\b\r\x1b[1m3/3\x1b[0m loss: 0.5   \nEpoch 2/2\n'
    assert notebooks.last_state(bar) == 'Epoch 1/2\n3/3 loss: 0.5\nEpoch 2/2\n'
    log = ('WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n'
           'I0000 00:00:1234.5 33 cudart_stub.cc:31] Could not find cuda drivers\n'
           '2026-01-02 03:04:05.678: I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary\n'
           'To enable the following instructions: AVX2 FMA\nWARNING:absl:compiled metrics\n')
    errors = [printed(log, 'stderr'), printed(log + 'kept\n', 'stderr')]
    outputs = [*errors, printed('a', 'stdout'), printed('b\n', 'stdout')]
    nb = notebook(('fit()', outputs))
    notebooks.clean_outputs(nb)
    assert [output.text for output in nb.cells[1].outputs] == ['kept\n', 'ab\n']


def test_changed_code_is_found():
    nb = notebook(('x = 1', []), ('x', [shown(text_plain='1')]))
    assert notebooks.output_faults(nb, 'offline') == []
    nb.cells[1].source = 'x = 2'
    assert notebooks.output_faults(nb, 'offline') == ['its outputs are of other code: save it again']


def test_cells_that_changed_places_are_found():
    nb = notebook(('x = 1', []), ('y = 2', []))
    nb.cells.reverse()
    assert notebooks.output_faults(nb, 'offline') == ['its outputs are of other code: save it again']


def test_the_wrong_mode_and_no_outputs_are_found():
    nb = notebook(('x', [shown(text_plain='1')]))
    assert 'real photos' in notebooks.output_faults(nb, 'real photos')[0]
    del nb.metadata[notebooks.KEY]
    assert notebooks.output_faults(nb, 'offline') == ['has no saved outputs: save it']


@pytest.mark.parametrize('source', ['x', 'x = 1\nx.shape', 'print(1)', 'for i in range(3):\n    pass\nx[0], x[1]'])
def test_a_lost_output_is_found(source):
    assert 'has lost its output' in notebooks.output_faults(notebook((source, [])), 'offline')[0]


@pytest.mark.parametrize('source', [
    '', '# nothing', 'x = 1', 'test_eq(1, 1)', 'import os', 'x;', '#| eval: false\nx', 'def f():\n    return 1',
    '%matplotlib inline', 'files = !ls', '%%time\nx = 1',
])
def test_cells_that_need_no_output(source):
    assert notebooks.output_faults(notebook((source, [])), 'offline') == []


def test_an_error_in_the_outputs_is_found():
    error = nbformat.v4.new_output('error', ename='ValueError', evalue='no', traceback=[])
    assert 'is an error' in notebooks.output_faults(notebook(('f()', [error])), 'offline')[0]


def test_a_heading_with_two_marks_is_found():
    nb = notebook(('1', [shown(text_plain='1')]))
    nb.cells[0].source = '# # Data'
    assert notebooks.style_faults(nb, chapter=False) == ['cell 1: a heading begins with two marks, as in "# # Title"']


def test_style_limits():
    faults = notebooks.style_faults(notebook(('pass\n' * 41, [])), chapter=False)
    assert faults == ['the median code cell has 41 lines, over 8']
    silent = notebook(('1', [shown(text_plain='1')]), ('x = 1', []), ('y = 1', []))
    assert notebooks.style_faults(silent, chapter=True) == ['only 1 of 3 code cells show a result, less than half']
    silent.cells = [cell for cell in silent.cells if cell.cell_type == 'code'] + silent.cells[:1]
    assert notebooks.style_faults(silent, chapter=False) == ['only 1 of 4 cells are prose, less than a third']


@pytest.fixture
def on_disk(tmp_path):
    """Write a notebook of code cells that was never run; give its path."""
    def write(*sources):
        nb = notebook(*((source, []) for source in sources))
        del nb.metadata[notebooks.KEY]
        nbformat.write(nb, tmp_path / '10_example.ipynb')
        return tmp_path / '10_example.ipynb'

    return write


def test_save_runs_cleans_and_signs(on_disk):
    path = on_disk('import os\nimport sys', '#| eval: false\nstop', 'print(os.path.basename(os.getcwd()), sys.prefix)')
    notebooks.save_notebook(path)
    saved = nbformat.read(path, as_version=4)
    assert saved.cells[5].outputs[0].text.startswith(f'{path.parent.name} ...')
    assert saved.cells[5].execution_count is None
    assert saved.metadata[notebooks.KEY]['mode'] == 'offline'
    assert {'tensorflow', 'keras', 'python'} <= set(saved.metadata[notebooks.KEY]['versions'])
    assert notebooks.notebook_faults(path) == []


@pytest.mark.parametrize('wrong, said', [
    ('1 / 0', r'cell 4 \(1 / 0\): ZeroDivisionError'),
    ('import os; os._exit(1)', 'cell 4: its process died'),
    ('print("/home/somebody/rex.jpg")', '/home/somebody/rex.jpg'),
])
def test_an_error_leaves_the_notebook_as_it_was(on_disk, wrong, said):
    path = on_disk('1 + 1', wrong)
    before = path.read_bytes()
    with pytest.raises(notebooks.Fault, match=said):
        notebooks.save_notebook(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with only an index.ipynb: prose with links, code that shows text and a picture, and hidden cells."""
    prose = ('# Pets\n\n[data](00_data.ipynb), [table](../benchmarks/results/x.md), [top](#pets), '
             '[TF](https://tensorflow.org/x) ![plan](images/plan.png)')
    outputs = [printed('two pets\n'), shown(image_png=PHOTO, text_plain='<Figure>')]
    nb = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('#| hide\nsecret = 1'),
        nbformat.v4.new_markdown_cell(prose),
        nbformat.v4.new_code_cell('#| output: asis\n#| fig-alt: a cat\nshow(pets)', outputs=outputs)])
    (tmp_path / 'nbs').mkdir()
    nbformat.write(nb, tmp_path / 'nbs/index.ipynb')
    monkeypatch.setattr(notebooks, 'ROOT', tmp_path)
    return tmp_path


def test_readme_of_an_index(project):
    notebooks.write_readme(notebooks.readme_page())
    text = (project / 'README.md').read_text()
    assert ('[data](nbs/00_data.ipynb), [table](benchmarks/results/x.md), [top](#pets), '
            '[TF](https://tensorflow.org/x) ![plan](nbs/images/plan.png)') in text
    assert 'secret' not in text and '#|' not in text and PHOTO not in text
    assert '```python\nshow(pets)\n```' in text and 'two pets' in text
    [picture] = (project / 'nbs/images').iterdir()
    assert picture.read_bytes() == b'the bytes of a photo'
    assert f'![a cat](nbs/images/{picture.name})' in text


def test_a_readme_that_is_out_of_date_is_found(project):
    notebooks.write_readme(notebooks.readme_page())
    assert notebooks.readme_is_current(notebooks.readme_page())
    next((project / 'nbs/images').iterdir()).write_bytes(b'another picture')
    assert not notebooks.readme_is_current(notebooks.readme_page())
    notebooks.write_readme(notebooks.readme_page())
    (project / 'README.md').write_text('# Dogs')
    assert not notebooks.readme_is_current(notebooks.readme_page())
