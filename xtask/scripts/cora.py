#!/usr/bin/env python3
"""cora.py CORA.CONTENT DIR: Cora's citations in the plain form, from its words and the cora.cites beside them.

The division of nodes is drawn as Planetoid's was, but is not the published one. Standard library only.
"""
import os
import sys

import graph_files

CLASSES = ['Case_Based', 'Genetic_Algorithms', 'Neural_Networks', 'Probabilistic_Methods', 'Reinforcement_Learning',
           'Rule_Learning', 'Theory']


def main(path, folder):
    number, labels, features = {}, [], []
    with open(path, encoding='utf-8') as file:
        for line in file:
            name, *words, label = line.split()
            number[name] = len(number)
            features.append({i for i, word in enumerate(words) if word == '1'})
            labels.append(CLASSES.index(label))
    with open(os.path.join(os.path.dirname(path), 'cora.cites'), encoding='utf-8') as file:
        cited = [line.split() for line in file]
    edges = [(number[a], number[b]) for a, b in cited if a in number and b in number]
    graph_files.write(folder, edges, labels, features, graph_files.twenty_of_each(labels))


main(*sys.argv[1:])
