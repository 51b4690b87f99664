"""Build the package from settings.ini, where nbdev keeps its facts."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(here / 'settings.ini', encoding='utf-8')
facts = parser['DEFAULT']
kinds = ('offline', 'heif', 'fast', 'tensorboard', 'export', 'dev')
extras = {kind: facts[f'{kind}_requirements'].split() for kind in kinds}

setup(
    name=facts['lib_name'],
    version=facts['version'],
    description=facts['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=facts['author'],
    license='Apache-2.0',
    keywords=facts['keywords'],
    packages=find_packages(include=['transfer_cvd', 'transfer_cvd.*']),
    package_data={'transfer_cvd.evaluation.report': ['*.j2', '*.css']},
    python_requires=f">={facts['min_python']}",
    install_requires=facts['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': [facts['console_scripts']]},
    zip_safe=False,
)
