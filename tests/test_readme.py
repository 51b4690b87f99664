"""What the pages for readers say is so: figures were measured, links lead somewhere, the first lines of Python run."""
import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'benchmarks/README.md']

pages = pytest.mark.parametrize('path', PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def measured():
    """All tables of measurements."""
    return '\n'.join(path.read_text() for path in (ROOT / 'benchmarks/results').glob('*.md'))


@pages
def test_figures_are_measured(path):
    page = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
    page = re.sub(r'Python (3\.\d+(, | or )?)+', '', page)  # versions are no measurements
    figures = re.findall(r'(?<![\w.])\d+\.\d{2,}(?![\w.])', page)
    assert figures
    assert [figure for figure in figures if figure not in measured()] == []


def test_rows_are_those_of_the_tables():
    rows = [line.strip() for path in PAGES for line in path.read_text().splitlines()
            if line.startswith('|') and re.search(r'\d\.\d', re.sub(r'Python (3\.\d+(, | or )?)+', '', line))]
    assert rows
    assert [row for row in rows if row not in measured()] == []


def prose(path):
    """The Markdown of a page or notebook."""
    if path.suffix == '.md':
        return path.read_text(encoding='utf-8')
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')


def test_links_lead_somewhere():
    paths = [*PAGES, ROOT / 'CONTRIBUTING.md', *(ROOT / 'nbs').rglob('[!.]*.ipynb')]
    links = {path: re.findall(r'\]\((?!https?:|#)([^)#]+)', prose(path)) for path in paths}
    assert all(links[path] for path in PAGES)
    dead = [f'{path.relative_to(ROOT)}: {link}' for path in paths for link in links[path]
            if not (path.parent / link).exists()]
    assert dead == []


def test_every_table_is_explained():
    page = (ROOT / 'benchmarks/README.md').read_text()
    tables = [path.name for path in (ROOT / 'benchmarks/results').glob('*.md')]
    assert [name for name in tables if f'(results/{name})' not in page] == []


def test_the_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert len(lines) <= 130
    picture, = [number for number, line in enumerate(lines) if line.startswith('![')]
    assert picture < 15


def test_the_lines_of_python_run(pets, tmp_path, monkeypatch):
    block, = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), flags=re.DOTALL)
    shutil.copytree(pets, tmp_path / 'pets')
    shutil.copy(next((pets / 'dog').iterdir()), tmp_path / 'rex.jpg')
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names['answer'].class_name in names['classifier'].class_names
    assert (tmp_path / 'runs/pets/report.html').is_file() and (tmp_path / 'rex.png').is_file()
    assert names['again'].predict('rex.jpg').class_name == names['answer'].class_name
