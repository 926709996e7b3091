#!/usr/bin/env python3
"""wordnet.py DATA.NOUN DIR: a graph of WordNet's nouns in the plain form.

220 synsets drawn from each of 12 lexicographer files, and all of their hypernyms; an edge leads from a synset to each
hypernym, a class is a lexicographer file (synsets of others have none), features are the 500 commonest words of the
glosses. Standard library only.
"""
import collections
import random
import re
import sys

import graph_files

# Numbers of lexicographer files: act, animal, artifact, attribute, body, cognition, communication, food, location,
# person, plant, substance.
CLASSES = [4, 5, 6, 7, 8, 9, 10, 13, 15, 18, 20, 27]
COMMON = set('a an the of or and in to for with that is by as on from at used having one it be are which who its usually any '
             'not especially into such made very'.split())


def synsets(path):
    """By offset: lexicographer file, hypernyms (and whether the first kind, not an instance's), gloss."""
    found = {}
    with open(path, encoding='latin1') as file:
        for line in file:
            if line.startswith('  '):  # the licence
                continue
            fields, _, gloss = line.partition(' | ')
            words = fields.split()
            at = 4 + 2 * int(words[3], 16)
            pointers = (words[at + 1 + 4 * i:at + 5 + 4 * i] for i in range(int(words[at])))
            hypernyms = [(kind, to) for kind, to, pos, _ in pointers if kind in ('@', '@i') and pos == 'n']
            found[words[0]] = int(words[1]), hypernyms, gloss.strip()
    return found


def words(gloss):
    return [w for w in re.findall('[a-z]{3,}', gloss.split(';')[0].lower()) if w not in COMMON]


def main(path, folder):
    nouns = synsets(path)
    draw, kept = random.Random(0), set()
    for number in CLASSES:
        members = sorted(o for o, (file, up, _) in nouns.items() if file == number and any(kind == '@' for kind, _ in up))
        kept |= set(draw.sample(members, 220))
    waiting = list(kept)
    while waiting:
        for _, above in nouns[waiting.pop()][1]:
            if above not in kept:
                kept.add(above)
                waiting.append(above)
    nodes = sorted(kept)
    draw.shuffle(nodes)
    number = {offset: i for i, offset in enumerate(nodes)}
    count = collections.Counter(w for o in nodes for w in sorted(set(words(nouns[o][2]))))
    common = [w for w, _ in sorted(count.items(), key=lambda x: (-x[1], x[0]))[:500]]
    column = {w: i for i, w in enumerate(common)}
    labels = [CLASSES.index(nouns[o][0]) if nouns[o][0] in CLASSES else -1 for o in nodes]
    features = [{column[w] for w in words(nouns[o][2]) if w in column} for o in nodes]
    edges = [(number[o], number[above]) for o in nodes for _, above in nouns[o][1]]
    graph_files.write(folder, edges, labels, features)
    graph_files.save_division(f'{folder}/split_nc_20.json', graph_files.twenty_of_each(labels))


main(*sys.argv[1:])
