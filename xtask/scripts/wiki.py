#!/usr/bin/env python3
"""wiki.py DUMP.bz2 DIR: articles of a Wikipedia dump as plain text, DIR/{train,valid,test}.txt.

Parts are split by article. Standard library only.
"""
import bz2
import hashlib
import html
import re
import sys

END_SECTIONS = {
    'see also', 'references', 'external links', 'further reading', 'notes', 'bibliography', 'footnotes', 'sources',
    'works cited', 'citations', 'filmography', 'discography',
}


def repeat(pattern, replacement, text, times, flags=0):
    """Substitutes from the inside out, for markup that nests."""
    for _ in range(times):
        before, text = text, re.sub(pattern, replacement, text, flags=flags)
        if text == before:
            break
    return text


def strip_markup(text):
    text = html.unescape(html.unescape(text))
    text = re.sub(r'<!--.*?-->', '', text, flags=re.S)
    text = re.sub(r'<(math|chem|source|syntaxhighlight|gallery|timeline|pre|score)[^>/]*>.*?</\1>', '', text, flags=re.S | re.I)
    text = re.sub(r'<ref[^>]*/>', '', text)
    text = re.sub(r'<ref[^>]*>.*?</ref>', '', text, flags=re.S)
    # Templates whose content is part of the sentence; all others are dropped.
    text = re.sub(r'\{\{\s*(?:convert|cvt)\s*\|\s*([^|{}]*)\|\s*([^|{}]*)[^{}]*\}\}', r'\1 \2', text, flags=re.I)
    text = re.sub(r'\{\{\s*lang(?:-[a-z]+)?\s*\|(?:[a-z]{2,3}\|)?([^|{}]*)[^{}]*\}\}', r'\1', text, flags=re.I)
    text = re.sub(r'\{\{\s*(?:circa|c\.)\s*\|\s*([^|{}]*)[^{}]*\}\}', r'c. \1', text, flags=re.I)
    text = repeat(r'\{\{[^{}]*\}\}', '', text, 8)
    text = repeat(r'\{\|(?:(?!\{\|).)*?\|\}', '', text, 4, re.S)  # tables
    text = repeat(r'\[\[(?:File|Image|Category|[a-z\-]{2,12}):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]', '', text, 3, re.I)
    text = re.sub(r'\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]', r'\1', text)
    text = re.sub(r'\[https?:/{2}\S+ ([^\]]*)\]', r'\1', text)
    text = re.sub(r'\[?https?:/{2}\S+\]?', '', text)
    text = re.sub(r"'{2,5}", '', text)
    return re.sub(r'<[^>]+>', '', text)


def paragraphs(text):
    """Paragraphs of an article; a heading becomes `= X =`, lists and end sections are left out."""
    result, skip = [], False
    for line in strip_markup(text).split('\n'):
        line = line.strip()
        heading = re.match(r'^(=+)\s*(.*?)\s*=+$', line)
        if heading:
            depth = min(len(heading[1]), 3)
            if len(heading[1]) == 2:
                skip = heading[2].lower() in END_SECTIONS
            if not skip:
                result.append('= ' * depth + heading[2] + ' =' * depth)
            continue
        if skip or not line or line[0] in '*#:;|!{}<':
            continue
        # What removed templates leave behind.
        line = line.replace('\u00a0', ' ')
        line = re.sub(r'\(\s*[;,]?\s*\)', '', line)
        line = re.sub(r'\(\s*[,;]\s*', '(', line)
        line = re.sub(r'\s+([,.;:)])', r'\1', line)
        line = re.sub(r'  +', ' ', line)
        if len(line.split()) >= 6 and not re.search(r'\[\[|\]\]|\{\{|\}\}|\|\|', line):
            result.append(line)
    following = result[1:] + ['= ']
    return [p for p, after in zip(result, following) if not (p.startswith('= ') and after.startswith('= '))]


def main(dump, folder):
    with bz2.open(dump, 'rt', encoding='utf-8') as file:
        pages = re.finditer(r'<page>\s*<title>(.*?)</title>\s*<ns>0</ns>.*?<text[^>]*>(.*?)</text>', file.read(), flags=re.S)
    parts = {'train': [], 'valid': [], 'test': []}
    for page in pages:
        title, text = page[1], page[2]
        if html.unescape(text).lstrip().upper().startswith('#REDIRECT'):
            continue
        article = paragraphs(text)
        if sum(len(p) for p in article if not p.startswith('= ')) < 800:
            continue
        number = int(hashlib.sha1(title.encode()).hexdigest(), 16) % 20
        part = {0: 'valid', 1: 'test'}.get(number, 'train')
        parts[part].append('= ' + title + ' =\n\n' + '\n\n'.join(article))
    for part, articles in parts.items():
        with open(f'{folder}/{part}.txt', 'w', encoding='utf-8', newline='\n') as file:
            file.write('\n\n'.join(articles).strip() + '\n')


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
