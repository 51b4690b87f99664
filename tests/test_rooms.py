"""Imports go down, chapters hold the lesson alone, lines are short, and every notebook says what it is about."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import rooms

NOTEBOOKS = sorted(path for path in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
CHAPTERS = {
    'data': {'load_data', 'format_example', 'show_batch'},
    'base_model': {'base_model'},
    'feature_extraction': {'freeze', 'add_head', 'train_head'},
    'fine_tuning': {'unfreeze_from', 'fine_tune'},
    'summary': {'plot_history', 'report'},
}
MAX_LINES = 120  # characters


def cells(path):
    """The cells of a notebook: kind and source."""
    notebook = json.loads(path.read_text(encoding='utf-8'))
    return [(cell['cell_type'], ''.join(cell['source'])) for cell in notebook['cells']]


def shown(each):
    return f'transfer_cvd/{each.importer.replace(".", "/")}.py:{each.line} imports {each.imported}'


def test_every_module_is_in_a_room():
    assert {rooms.room_of(module) for module in rooms.module_files()} - {*rooms.NOT_ROOMS} == {*rooms.ORDER}


def upward(root=ROOT):
    """The imports from a lower room to a higher one."""
    level = {room: number for number, room in enumerate(rooms.ORDER)}
    return [shown(each) for each in rooms.all_imports(root) if each.imported not in rooms.NOT_ROOMS
            and level[rooms.room_of(each.imported)] > level[rooms.room_of(each.importer)]]


def of_chapters(root=ROOT):
    """The imports of a chapter by a room that is not above the chapters; a chapter does not import another either."""
    return [shown(each) for each in rooms.all_imports(root) if rooms.room_of(each.imported) == 'chapters'
            and rooms.room_of(each.importer) not in rooms.ABOVE_CHAPTERS]


def of_private_names(root=ROOT):
    """The imports of a private name of another module."""
    return [shown(each) for each in rooms.all_imports(root) if any(name.startswith('_') for name in each.names)]


@pytest.mark.parametrize('wrong', [upward, of_chapters, of_private_names])
def test_imports(wrong):
    assert wrong() == []


@pytest.fixture
def package(tmp_path):
    """Write a small package in which one module has the line that is given."""
    def write(line, module='photos/data'):
        others = {'runs': 'run = _run = 1', 'data': 'load_data = 1', '_files': 'name = 1'}
        for name, text in {**others, module: line}.items():
            path = tmp_path / f'transfer_cvd/{name}.py'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'"""One."""\n{text}\n')
        return tmp_path

    return write


@pytest.mark.parametrize('line', ['from transfer_cvd.runs import run', 'from ..runs import run', 'from .. import runs',
                                  'import transfer_cvd.runs', 'def f():\n    from ..runs import run'])
def test_an_import_upwards_is_found(package, line):
    number = 1 + len(line.splitlines())
    assert upward(package(line)) == [f'transfer_cvd/photos/data.py:{number} imports runs']


def test_imports_of_chapters_and_private_names_are_found(package):
    assert of_chapters(package('from ..data import load_data')) == ['transfer_cvd/photos/data.py:2 imports data']
    assert of_private_names(package('from .runs import _run', 'cli')) == ['transfer_cvd/cli.py:2 imports runs']
    fine = package('from ._files import name\nfrom .data import load_data\nfrom .runs import run', 'cli')
    (fine / 'transfer_cvd/photos/data.py').unlink()
    assert upward(fine) == of_chapters(fine) == of_private_names(fine) == []


def test_the_map_is_that_of_the_imports():
    done = subprocess.run([sys.executable, ROOT / 'tools/rooms.py', 'check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def chapter_path(module):
    number = list(CHAPTERS).index(module)
    return ROOT / f'nbs/0{number}_{module}.ipynb'


def exported(path):
    """The exported cells of a notebook without their directives."""
    return [re.sub(r'^#\|.*\n', '', source, flags=re.M) for kind, source in cells(path)
            if kind == 'code' and source.startswith('#| export')]


def test_chapters_export_little():
    """Lines that are not blank, docstrings and comments counted."""
    lines = {module: sum(bool(line.strip()) for line in '\n'.join(exported(chapter_path(module))).splitlines())
             for module in CHAPTERS}
    assert sum(lines.values()) <= 250, lines


def body_lines(function):
    """Lines of a function's body without its docstring."""
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    return function.end_lineno - first.lineno + 1


@pytest.mark.parametrize('module', CHAPTERS)
def test_functions_of_a_chapter_can_be_taken_in_at_a_glance(module):
    functions = [node for source in exported(chapter_path(module)) for node in ast.walk(ast.parse(source))
                 if isinstance(node, ast.FunctionDef)]
    assert functions
    # A call that names each of its arguments on a line of its own is one statement, however many there are.
    assert {function.name: body_lines(function) for function in functions
            if body_lines(function) > 12 and len(function.body) > 4} == {}


@pytest.mark.parametrize('module', CHAPTERS)
def test_public_names_of_a_chapter(module):
    tree = ast.parse((ROOT / f'transfer_cvd/{module}.py').read_text(encoding='utf-8'))
    names = next(ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign) and node.targets[0].id == '__all__')
    assert CHAPTERS[module] <= set(names)


def texts():
    """All code by where it stands. nbdev's index is left out, and the names that nbdev lists at the top of a module."""
    files = [path for folder in ('tests', 'benchmarks', 'tools') for path in (ROOT / folder).glob('*.py')]
    for path in [*files, ROOT / 'setup.py']:
        yield path.relative_to(ROOT), path.read_text(encoding='utf-8')
    for path in rooms.module_files().values():
        if path.name != '_modidx.py':
            text = path.read_text(encoding='utf-8')
            names = re.search(r'^__all__ = \[.*?\]$', text, flags=re.M | re.S)
            yield path.relative_to(ROOT), text.replace(names[0], '\n' * names[0].count('\n')) if names else text
    for path in NOTEBOOKS:
        for position, (kind, source) in enumerate(cells(path), 1):
            if kind == 'code':
                yield f'{path.relative_to(ROOT)}, cell {position}', source


def test_lines_are_short():
    long = [f'{place}, line {number}: {len(line)} characters' for place, text in texts()
            for number, line in enumerate(text.splitlines(), 1) if len(line) > MAX_LINES]
    assert not long, '\n'.join(['', *long])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / 'nbs').as_posix())
def test_a_notebook_says_what_it_is_about(path):
    kind, source = cells(path)[0]
    assert kind == 'markdown' and re.match(r'# .+\n\n> .+', source)


def defined(source):
    """The public functions of an exported cell, and its classes that do something: that have a method."""
    for node in ast.parse(re.sub(r'^#\|.*\n', '', source, flags=re.M)).body:
        is_record = isinstance(node, ast.ClassDef) and not any(isinstance(part, ast.FunctionDef) for part in node.body)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not is_record and not node.name.startswith('_'):
            yield node.name


def without_a_result(path):
    """The functions and classes below which, before the next exported cell, no example shows a result."""
    lacking = []
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if source.startswith('#| export'):
            yield from lacking
            lacking = [*defined(source)]
        elif cell['cell_type'] == 'code' and cell['outputs']:
            lacking = []
    yield from lacking


@pytest.mark.parametrize('path', [path for path in NOTEBOOKS if path.parent.name != 'nbs'],
                         ids=lambda path: path.relative_to(ROOT / 'nbs').as_posix())
def test_a_result_stands_below_each_exported_cell(path):
    assert [*without_a_result(path)] == []


@pytest.mark.parametrize('folder', ['using', 'inside'])
def test_a_folder_has_a_table_of_contents(folder):
    """Each notebook of the folder once, in a line that says what it is about."""
    page = ROOT / f'nbs/{folder}/index.ipynb'
    text = '\n'.join(source for _, source in cells(page))
    listed = re.findall(r'^(?:-|\d+\.) \[[^]]+\]\(([^)]+\.ipynb)\): \S.+$', text, flags=re.M)
    there = [path.relative_to(page.parent).as_posix() for path in page.parent.rglob('*.ipynb')
             if path != page and '.ipynb_checkpoints' not in path.parts]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize('code', ['import transfer_cvd', 'from transfer_cvd.all import InputError, TrainConfig'])
def test_importing_is_instant(code):
    check = f'import sys\n{code}\nassert not {{"tensorflow", "keras", "numpy"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', check], check=True, cwd=ROOT)
