#!/usr/bin/env python3
"""austen.py RDATA DIR: the novels in an R data base RDATA.{rdx,rdb} as plain text, DIR/{train,valid,test}.txt.

Reads as much of R's serialisation as character vectors need. Standard library only.
"""
import bz2
import gzip
import io
import lzma
import re
import struct
import sys
import zlib

PARTS = {
    'train': ('emma', 'mansfieldpark', 'prideprejudice', 'sensesensibility'),
    'valid': ('northangerabbey',),
    'test': ('persuasion',),
}


class Reader:
    """R's XDR serialisation. Vectors become lists, pair lists become dictionaries; attributes come beside a value."""

    def __init__(self, data):
        self.file, self.symbols = io.BytesIO(data), []

    def integer(self):
        return struct.unpack('>i', self.file.read(4))[0]

    def read(self):
        if self.file.read(2) != b'X\n':
            sys.exit('not an R serialisation in XDR format')
        version = self.integer()
        self.file.read(8)  # versions of R
        if version == 3:
            self.file.read(self.integer())  # native encoding
        return self.item()[0]

    def item(self):
        """Returns a value and its attributes."""
        flags = self.integer()
        kind, has_attributes, has_tag = flags & 255, flags & 512, flags & 1024
        if kind == 254:  # NULL
            return None, None
        if kind == 255:  # a symbol seen before
            return self.symbols[(flags >> 8 or self.integer()) - 1], None
        if kind == 1:  # symbol
            self.symbols.append(self.item()[0])
            return self.symbols[-1], None
        if kind == 9:  # string
            length = self.integer()
            return (None if length == -1 else self.file.read(length).decode('utf-8', errors='replace')), None
        if kind == 2:  # pair list
            if has_attributes:
                self.item()
            tag = self.item()[0] if has_tag else None
            value = self.item()[0]
            return {tag: value, **(self.item()[0] or {})}, None
        if kind in (10, 13):  # logical, integer
            length = self.integer()
            value = list(struct.unpack(f'>{length}i', self.file.read(4 * length)))
        elif kind in (16, 19):  # strings, list
            value = [self.item()[0] for _ in range(self.integer())] if kind == 16 else [self.item() for _ in range(self.integer())]
        else:
            sys.exit(f'R type {kind} is not supported')
        return value, (self.item()[0] if has_attributes else None)


def load(base):
    """The character vectors of a data base, by name."""
    index = Reader(gzip.open(base + '.rdx').read())
    index.file.seek(0)
    (variables, attributes), *_ = index.read()
    with open(base + '.rdb', 'rb') as file:
        data = file.read()
    result = {}
    for name, (place, _) in zip(attributes['names'], variables):
        block = data[place[0]:place[0] + place[1]]
        kind = block[4:5]  # after the length
        if kind == b'2':
            raw = bz2.decompress(block[5:])
        elif kind == b'Z':
            filters = [{'id': lzma.FILTER_LZMA2, 'dict_size': 1 << 26}]
            raw = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters).decompress(block[5:])
        else:
            raw = zlib.decompress(block[4:])
        result[name] = Reader(raw).read()
    return result


def paragraphs(lines):
    """Joins the lines between empty ones and drops the underscores that mark italics."""
    blocks = re.split(r'\n{2,}', '\n'.join((line or '').strip() for line in lines).strip('\n'))
    return [block.replace('\n', ' ').replace('_', '') for block in blocks if block]


def main(base, folder):
    novels = load(base)
    for part, names in PARTS.items():
        text = '\n\n'.join('\n\n'.join(paragraphs(novels[name])) for name in names).strip() + '\n'
        with open(f'{folder}/{part}.txt', 'w', encoding='utf-8', newline='\n') as file:
            file.write(text)


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
