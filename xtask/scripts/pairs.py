#!/usr/bin/env python3
"""pairs.py SHARE DIR: English and German sentences that translate each other, DIR/{train,valid,test}.{en,de}.

SHARE is the usr/share of the unpacked packages: catalogues of messages of the wesnoth-1.16 campaigns, and the example
sentences of the Ding list (trans-de-en). A sentence's part follows from a hash of its English side, so that no English
sentence is in two parts. Standard library only.
"""
import gettext
import glob
import hashlib
import os
import random
import re
import sys

MARKUP = re.compile(r'<[^>]{1,80}>')
# After a full stop and closing quotes, before an opening quote and a capital.
BETWEEN = re.compile(r'(?<=[.!?…])["”’»“\')]*\s+(?=["“„»‘(\']*[A-ZÄÖÜÀÂÉÈÊÎÔÇÁÍÓÚÑ¿¡])')
NO_SENTENCE = set('$%{}@=|')


def lines(message):
    """Paragraphs of a message, without markup."""
    plain = (MARKUP.sub('', x).replace('\u00a0', ' ').replace('\r', '') for x in message.split('\n') if x.strip())
    return [re.sub(r'[ \t]+', ' ', x).strip() for x in plain]


def sentences(line):
    return [x.strip() for x in BETWEEN.split(line.strip()) if x.strip()]


def fits(english, german):
    """3 to 60 and 2 to 60 words, neither side more than 2.2 times the other, and some lower case."""
    n, m = len(english.split()), len(german.split())
    ratio = (len(german) + 1) / (len(english) + 1)
    return 3 <= n <= 60 and 2 <= m <= 60 and 1 / 2.2 <= ratio <= 2.2 and re.search('[a-z]', english)


def of_catalogues(folder):
    paths = sorted(glob.glob(os.path.join(folder, '*.mo')))
    if not paths:
        sys.exit(f'no catalogues in {folder}')
    for path in paths:
        if os.path.basename(path) == 'wesnoth-editor.mo':
            continue
        with open(path, 'rb') as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for english, german in catalogue.items():
            if not isinstance(english, str) or not english or not isinstance(german, str):
                continue
            english = english.split('\x04')[-1]  # gettext's context
            if '^' in english[:40]:  # Wesnoth's own: "female^..."
                english = english.split('^', 1)[1]
            if english == german or NO_SENTENCE & set(english) or NO_SENTENCE & set(german):
                continue
            e, g = lines(english), lines(german)
            if len(e) != len(g):
                continue
            for x, y in zip(e, g):
                many = sentences(x), sentences(y)
                yield from zip(*many) if len(many[0]) == len(many[1]) else [(x, y)]


def of_list(path):
    with open(path, encoding='utf-8') as file:
        for line in file:
            if line.startswith('#') or '::' not in line:
                continue
            german, english = (side.split('|') for side in line.rstrip('\n').split('::', 1))
            if len(german) != len(english):
                continue
            for g, e in zip(german, english):
                g, e = g.strip(), e.strip()
                if all(re.search(r'[.!?]$', x) and not re.search(r'[\[\]{}/<>;]', x) for x in (g, e)):
                    yield e, g


def part(english):
    percent = int(hashlib.sha1(english.lower().encode()).hexdigest(), 16) % 100
    return 'test' if percent < 3 else 'valid' if percent < 6 else 'train'


def main(share, folder):
    pairs = {}  # in the order of their first appearance
    for pair in of_catalogues(f'{share}/games/wesnoth/1.16/locale/de/LC_MESSAGES'):
        if fits(*pair):
            pairs[pair] = None
    for pair in of_list(f'{share}/trans/de-en'):
        if fits(*pair):
            pairs[pair] = None
    pairs = list(pairs)
    random.Random(0).shuffle(pairs)
    for name in ('train', 'valid', 'test'):
        mine = [pair for pair in pairs if part(pair[0]) == name]
        for side, language in enumerate(('en', 'de')):
            with open(f'{folder}/{name}.{language}', 'w', encoding='utf-8') as file:
                file.writelines(pair[side] + '\n' for pair in mine)


main(*sys.argv[1:])
